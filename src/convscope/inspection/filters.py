"""The weights of the convolutions as images."""

from math import prod

import numpy as np
from numpy.typing import NDArray
from torch import nn

from convscope.errors import UsageError
from convscope.inspection.subject import Subject
from convscope.results.panels import FeatureMaps, Panel

MAX_FIRST = 64
"""Filters shown of the first layer."""
MAX_FILTERS, MAX_CHANNELS = 8, 8
"""Filters shown of a deeper layer, and channels shown of each filter."""
MAX_LAYERS = 12


def inspect_filters(subject: Subject) -> tuple[Panel, ...]:
    """Return the filters of the first layer in colour, and those of deeper convolutions channel by channel."""
    layers = {
        name: module
        for name, module in subject.network.named_modules()
        if isinstance(module, nn.Conv2d) and prod(module.kernel_size) > 1
    }
    if subject.layer is not None:
        inside = {name: m for name, m in layers.items() if f"{name}.".startswith(f"{subject.layer.split(' (')[0]}.")}
        if not inside:
            raise UsageError(f"layer {subject.layer!r} has no convolution larger than 1x1")
        layers = inside
    panels: list[Panel] = []
    first = _first_layer(subject)
    if first is not None and subject.layer in (None, first[0]):
        panels.append(first[1])
        layers.pop(first[0], None)
    if layers:
        panels.append(_deeper(layers))
    if not panels:
        raise UsageError("no layer of this network has weights that form images")
    return tuple(panels)


def _first_layer(subject: Subject) -> tuple[str, FeatureMaps] | None:
    """Return name and weights of the layer that takes the image itself; None if the weights do not form images."""
    height, width, channels = subject.image.shape
    for name, module in subject.network.named_modules():
        if isinstance(module, nn.Conv2d):
            if module.in_channels != channels or module.groups != 1 or prod(module.kernel_size) == 1:
                return None
            weight = _weights(module)
        elif isinstance(module, nn.Linear):
            if module.in_features != channels * height * width:
                return None
            weight = _weights(module).reshape(-1, channels, height, width)
        else:
            continue
        content = f"{_count(len(weight), MAX_FIRST, 'filters')}, {weight.shape[2]} × {weight.shape[3]} each"
        images = _as_colour(weight[:MAX_FIRST])
        note = "mid-gray is zero" if channels == 3 else _range(weight)
        return name, FeatureMaps("Filters of the first layer", (images,), (f"layer {name}\n{content}\n{note}",))
    return None


def _as_colour(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return weights [O, 3, h, w] as colours [O, h, w, 3] with zero at 0.5; weights of one channel as [O, h, w]."""
    if weight.shape[1] != 3:
        return weight[:, 0]
    largest = float(np.abs(weight).max()) or 1.0
    return np.ascontiguousarray((0.5 + 0.5 * weight / largest).transpose(0, 2, 3, 1))


def _deeper(layers: dict[str, nn.Conv2d]) -> FeatureMaps:
    shown = list(layers)
    if len(shown) > MAX_LAYERS:
        shown = [shown[i] for i in np.linspace(0, len(shown) - 1, MAX_LAYERS).round().astype(int)]
    maps, captions = [], []
    for name in shown:
        weight = _weights(layers[name])
        filters, channels, height, width = weight.shape
        rows = MAX_FILTERS if channels > 1 else MAX_FIRST
        maps.append(weight[:rows, :MAX_CHANNELS].reshape(-1, height, width))
        content = f"{_count(filters, rows, 'filters')}, {height} × {width} each"
        each = f"\neach for {_count(channels, MAX_CHANNELS, 'channels')}, filter by filter" if channels > 1 else ""
        captions.append(f"layer {name}\n{content}{each}\n{_range(weight)}")
    title = "Deeper filters, channel by channel"
    if len(shown) < len(layers):
        title += f": {len(shown)} of {len(layers)} layers"
    return FeatureMaps(title, tuple(maps), tuple(captions))


def _weights(layer: nn.Conv2d | nn.Linear) -> NDArray[np.float32]:
    return np.asarray(layer.weight.detach().float().cpu().numpy())


def _count(number: int, most: int, what: str) -> str:
    return (
        f"{number} {what if number > 1 else what.removesuffix('s')}" if number <= most else f"{most} of {number} {what}"
    )


def _range(weight: NDArray[np.float32]) -> str:
    return f"weights from {weight.min():.3g} to {weight.max():.3g}"

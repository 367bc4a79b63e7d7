"""The feature maps of every layer for one image."""

import numpy as np
import torch
from numpy.typing import NDArray

from convscope.errors import UsageError
from convscope.inspection.hooks import Call, find_call, recorded_calls
from convscope.inspection.subject import Subject
from convscope.models.eval_mode import eval_mode
from convscope.results.panels import FeatureMaps, Panel

MAX_MAPS, MAX_MAPS_OF_ONE_LAYER = 16, 256
"""Feature maps shown of each layer, and of a layer chosen by name."""
MAX_LAYERS = 60


def inspect_feature_maps(subject: Subject, *, max_layers: int = MAX_LAYERS) -> tuple[Panel, ...]:
    """Return the feature maps of every layer for the image, or all feature maps of `subject.layer`."""
    calls = layer_calls(subject)
    if subject.layer is not None:
        call = find_call(calls, subject.layer)
        return (_panel(f"All feature maps of layer {call.name}", [call], MAX_MAPS_OF_ONE_LAYER),)
    shown = [call for call in calls if call.is_feature_maps or call.is_vector]
    if not shown:
        raise UsageError("the layers of this network output neither feature maps nor vectors")
    tokens = len(calls) - len(shown)
    title = f"The image in {len(shown)} layers, from first to last"
    if len(shown) > max_layers:
        title = f"The image in {max_layers} of {len(shown)} layers, from first to last"
        shown = [shown[i] for i in np.linspace(0, len(shown) - 1, max_layers).round().astype(int)]
    if tokens:
        title += f"; without {tokens} layers of tokens, which are not images"
    return (_panel(title, shown, MAX_MAPS),)


def layer_calls(subject: Subject) -> list[Call]:
    """Return the calls of all layers for the image."""
    network = subject.network
    with eval_mode(network), torch.no_grad(), recorded_calls(network) as calls:
        network(subject.input())
    return calls


def _panel(title: str, calls: list[Call], most: int) -> FeatureMaps:
    return FeatureMaps(title, tuple(_maps(call, most) for call in calls), tuple(_caption(call, most) for call in calls))


def _maps(call: Call, most: int) -> NDArray[np.float32]:
    """Return up to `most` feature maps of a layer, float32 [M, H, W]; a vector becomes one map, row by row."""
    values = np.asarray(call.channels_first(call.output)[0].float().cpu().numpy())
    if values.ndim == 3 and call.is_feature_maps:
        return np.ascontiguousarray(values[:most])
    values = values.reshape(-1)
    columns = len(values) if len(values) <= 16 else int(np.ceil(np.sqrt(len(values))))
    grid = np.full((-(-len(values) // columns), columns), np.nan, np.float32)
    grid.flat[: len(values)] = values
    return grid[None]


def _caption(call: Call, most: int) -> str:
    if call.is_feature_maps:
        number, height, width = call.channels_first(call.output).shape[1:]
        shown = f"{number} feature maps" if number <= most else f"the first {most} of {number} feature maps"
        content = f"{shown}, {height} × {width} each"
    else:
        content = f"{call.output[0].numel()} values, row by row"
    low, high = (float(value) for value in call.output[0].float().aminmax())
    return f"layer {call.name}\n{call.kind}: {content}\nvalues from {low:.3g} to {high:.3g}"

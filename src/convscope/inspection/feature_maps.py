"""What each layer makes of a picture."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from convscope.errors import UsageError
from convscope.inspection.hooks import Call, find_call, recorded_calls
from convscope.inspection.subject import Subject
from convscope.modes import evaluation_mode
from convscope.results import Maps, Panel

MAX_MAPS, MAX_MAPS_OF_ONE_LAYER = 16, 256
"""Maps that are shown of each layer, and of the one that was asked for."""
MAX_LAYERS = 60


def inspect_feature_maps(subject: Subject, *, max_layers: int = MAX_LAYERS) -> tuple[Panel, ...]:
    """Return the maps of every layer for the picture, or all maps of `subject.layer`."""
    calls = layer_calls(subject)
    if subject.layer is not None:
        call = find_call(calls, subject.layer)
        return (_panel(f"All that layer {call.name} makes of the picture", [call], MAX_MAPS_OF_ONE_LAYER),)
    shown = [call for call in calls if call.output.ndim in (2, 4)]
    if not shown:
        raise UsageError("the layers of this network make neither maps nor vectors")
    title = f"The picture in {len(shown)} layers, from first to last"
    if len(shown) > max_layers:
        title = f"The picture in {max_layers} of {len(shown)} layers, from first to last"
        shown = [shown[i] for i in np.linspace(0, len(shown) - 1, max_layers).round().astype(int)]
    tokens = sum(call.output.ndim == 3 for call in calls)
    if tokens:
        title += f"; {tokens} layers of tokens, which are no pictures, are left out"
    return (_panel(title, shown, MAX_MAPS),)


def layer_calls(subject: Subject) -> list[Call]:
    """Return the calls of all layers for the picture."""
    network = subject.network
    with evaluation_mode(network), torch.no_grad(), recorded_calls(network) as calls:
        network(subject.input())
    return calls


def _panel(title: str, calls: list[Call], most: int) -> Maps:
    return Maps(title, tuple(_maps(call, most) for call in calls), tuple(_caption(call, most) for call in calls))


def _maps(call: Call, most: int) -> NDArray[np.float32]:
    """Return the first maps of a layer, float32 [M, H, W]; a vector is one map, its values row by row."""
    values = np.asarray(call.channels_first(call.output)[0].float().cpu().numpy())
    if values.ndim == 3 and call.is_maps:
        return np.ascontiguousarray(values[:most])
    values = values.reshape(-1)
    columns = len(values) if len(values) <= 16 else int(np.ceil(np.sqrt(len(values))))
    grid = np.full((-(-len(values) // columns), columns), np.nan, np.float32)
    grid.flat[: len(values)] = values
    return grid[None]


def _caption(call: Call, most: int) -> str:
    if call.is_maps:
        number, height, width = call.channels_first(call.output).shape[1:]
        shown = f"{number} maps" if number <= most else f"the first {most} of {number} maps"
        what = f"{shown}, {height} × {width} each"
    else:
        what = f"{call.output[0].numel()} values, row by row"
    low, high = (float(value) for value in call.output[0].float().aminmax())
    return f"layer {call.name}\n{call.kind}: {what}\nvalues from {low:.3g} to {high:.3g}"

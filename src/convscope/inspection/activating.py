"""Which test pictures make a channel answer most."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convscope.budget.costs import count_macs
from convscope.data.batches import make_resident
from convscope.errors import UsageError
from convscope.inspection.feature_maps import layer_calls
from convscope.inspection.hooks import Call, find_call, last_maps, recorded_calls
from convscope.inspection.subject import Subject, evidence_of
from convscope.modes import evaluation_mode
from convscope.randomness import permutation
from convscope.results import ImageGrid, Panel

SHOWN_CHANNELS, SHOWN_PICTURES = 4, 10
MAX_PICTURES = 2000
MAX_MACS = 100_000_000_000
"""At most so many pictures, and so many operations, are spent on the search."""
BATCH_SIZE = 32

Floats = NDArray[np.float32]


def inspect_activating(subject: Subject) -> tuple[Panel, ...]:
    """Return the pictures that excite `subject.channel` most, or each of the channels that the picture excites most.

    A channel of maps is as excited as its most excited place; where pictures are equal in that, as where an activation
    has an upper end, the mean over all places decides.
    """
    evidence = evidence_of(subject)
    calls = layer_calls(subject)
    call = _richest(calls) if subject.layer is None else find_call(calls, subject.layer)
    if len(call.output) != 1:
        raise UsageError(
            f"layer {call.name!r} cuts a picture into {len(call.output)} windows, none of which is the picture; "
            "name another with --layer"
        )
    own = _excitement(call, call.output)[0][0]
    if subject.channel is not None and not 0 <= subject.channel < len(own):
        raise UsageError(
            f"layer {call.name!r} has channels 0 to {len(own) - 1}, there is none of number {subject.channel}"
        )
    channels = np.argsort(-own, kind="stable")[:SHOWN_CHANNELS] if subject.channel is None else [subject.channel]
    macs = count_macs(subject.network, evidence.images.shape)
    number = min(MAX_PICTURES, len(evidence.indices), max(BATCH_SIZE, MAX_MACS // max(1, macs)))
    chosen = evidence.indices[np.sort(permutation(len(evidence.indices), "activating")[:number])]
    excited, mean = channel_excitement(subject, call, chosen)
    images, panels = evidence.images, []
    for channel in channels:
        best = np.lexsort((-mean[:, channel], -excited[:, channel]))[:SHOWN_PICTURES]
        panels.append(
            ImageGrid(
                f"Channel {channel} of layer {call.name}: the most exciting of {number:,} pictures",
                tuple(images.images[i] for i in chosen[best]),
                tuple(
                    f"{images.class_names[images.labels[i]]}\nvalue {value:.3g}"
                    for i, value in zip(chosen[best], excited[best, channel], strict=True)
                ),
            )
        )
    return tuple(panels)


def _richest(calls: Sequence[Call]) -> Call:
    """Return the last call that makes maps; of a network on tokens the last that makes those, else the first."""
    try:
        return last_maps(calls)
    except UsageError:
        tokens = [call for call in calls if call.output.ndim == 3 and len(call.output) == 1]
        return tokens[-1] if tokens else calls[0]


def channel_excitement(subject: Subject, call: Call, indices: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Return how excited each channel of the call is by these pictures of the evidence, at its most and on average.

    Both are float32 [len(indices), C].
    """
    network, images = subject.network, evidence_of(subject).images
    largest, mean = [], []
    with evaluation_mode(network), torch.no_grad():
        for start in range(0, len(indices), BATCH_SIZE):
            data = make_resident(images, indices[start : start + BATCH_SIZE], subject.device)
            with recorded_calls(network, only=call.module) as calls:
                network(subject.preprocessing.apply(data.pictures, data.rows))
            of_batch = _excitement(call, find_call(calls, call.name).output)
            largest.append(of_batch[0])
            mean.append(of_batch[1])
    return np.concatenate(largest), np.concatenate(mean)


def _excitement(call: Call, output: Tensor) -> tuple[Floats, Floats]:
    """Return largest value and mean of each channel, float32 [B, C], of maps, tokens [B, T, C] or vectors of a call."""
    if output.ndim == 4 and call.is_channels_last:
        output = output.permute(0, 3, 1, 2)
    elif output.ndim == 3:
        output = output.transpose(1, 2)
    places = output.flatten(2) if output.ndim > 2 else output[:, :, None]
    return places.amax(dim=2).float().cpu().numpy(), places.float().mean(dim=2).cpu().numpy()

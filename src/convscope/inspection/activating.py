"""The images that most activate a channel, of the split that was measured."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convscope.data.batches import make_resident
from convscope.errors import UsageError
from convscope.inspection.feature_maps import layer_calls
from convscope.inspection.hooks import Call, find_call, last_feature_maps, recorded_calls
from convscope.inspection.subject import Subject, evidence_of
from convscope.memory.macs import count_macs
from convscope.models.eval_mode import eval_mode
from convscope.results.panels import ImageGrid, Panel
from convscope.seeds import permutation

SHOWN_CHANNELS, SHOWN_IMAGES = 4, 10
MAX_IMAGES = 2000
MAX_MACS = 100_000_000_000
"""Limits of the search."""
BATCH_SIZE = 32

Floats = NDArray[np.float32]


def inspect_activating(subject: Subject) -> tuple[Panel, ...]:
    """Return the images that most activate `subject.channel`, or each of the channels that the image activates most.

    The activation of a channel is the maximum over its feature map. The mean over the feature map breaks ties, which
    occur where the activation function has an upper limit.
    """
    evidence = evidence_of(subject)
    calls = layer_calls(subject)
    call = _richest(calls) if subject.layer is None else find_call(calls, subject.layer)
    if len(call.output) != 1:
        raise UsageError(
            f"layer {call.name!r} cuts an image into {len(call.output)} windows and sees none as a whole; "
            "choose another layer with --layer"
        )
    own = _activations(call, call.output)[0][0]
    if subject.channel is not None and not 0 <= subject.channel < len(own):
        raise UsageError(
            f"channel {subject.channel} does not exist; layer {call.name!r} has channels 0 to {len(own) - 1}"
        )
    channels = np.argsort(-own, kind="stable")[:SHOWN_CHANNELS] if subject.channel is None else [subject.channel]
    macs = count_macs(subject.network, evidence.images.shape)
    number = min(MAX_IMAGES, len(evidence.indices), max(BATCH_SIZE, MAX_MACS // max(1, macs)))
    chosen = evidence.indices[np.sort(permutation(len(evidence.indices), "activating")[:number])]
    largest, mean = channel_activations(subject, call, chosen)
    images, panels = evidence.images, []
    among = f"{number:,} images of the {evidence.split} split"
    for channel in channels:
        best = np.lexsort((-mean[:, channel], -largest[:, channel]))[:SHOWN_IMAGES]
        panels.append(
            ImageGrid(
                f"Channel {channel} of layer {call.name}: highest activations among {among}",
                tuple(images.images[i] for i in chosen[best]),
                tuple(
                    f"{images.class_names[images.labels[i]]}\nvalue {value:.3g}"
                    for i, value in zip(chosen[best], largest[best, channel], strict=True)
                ),
            )
        )
    return tuple(panels)


def _richest(calls: Sequence[Call]) -> Call:
    """Return the last call with feature maps; without any, the last call with tokens or else the first call."""
    try:
        return last_feature_maps(calls)
    except UsageError:
        tokens = [call for call in calls if call.output.ndim == 3 and len(call.output) == 1]
        return tokens[-1] if tokens else calls[0]


def channel_activations(subject: Subject, call: Call, indices: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Return the maximum and the mean of each channel of a call for images of the evidence, both float32 [N, C]."""
    network, images = subject.network, evidence_of(subject).images
    largest, mean = [], []
    with eval_mode(network), torch.no_grad():
        for start in range(0, len(indices), BATCH_SIZE):
            data = make_resident(images, indices[start : start + BATCH_SIZE], subject.device)
            with recorded_calls(network, only=call.module) as calls:
                network(subject.preprocessing.apply(data.images, data.rows))
            of_batch = _activations(call, find_call(calls, call.name).output)
            largest.append(of_batch[0])
            mean.append(of_batch[1])
    return np.concatenate(largest), np.concatenate(mean)


def _activations(call: Call, output: Tensor) -> tuple[Floats, Floats]:
    """Return maximum and mean of each channel, float32 [B, C], of feature maps, tokens [B, T, C] or vectors."""
    output = output.transpose(1, 2) if output.ndim == 3 else call.channels_first(output)
    places = output.flatten(2) if output.ndim > 2 else output[:, :, None]
    return places.amax(dim=2).float().cpu().numpy(), places.float().mean(dim=2).cpu().numpy()

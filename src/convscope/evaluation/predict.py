"""Running a network over many pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from convscope.data.batches import Preprocessing, Resident, ResidentFeatures, input_bytes
from convscope.models.head import find_dense_head
from convscope.modes import evaluation_mode

EVALUATION_BATCH_BYTES = 4 * 2**20
"""Size of the float32 pictures of one batch; larger ones fall out of a CPU's cache and are slower."""
MOST_FEATURES = 2048
"""A flattened map of more would take more memory for some thousand pictures than the network."""


def evaluation_batch_size(picture_bytes: int, most: int | None = None) -> int:
    """Return how many pictures are classified at a time.

    Args:
        picture_bytes: of one as the network takes it, float32.
        most: so many at most.
    """
    return min(1000 if most is None else most, max(32, EVALUATION_BATCH_BYTES // picture_bytes))


def predict_logits(
    model: nn.Module, data: Resident, preprocessing: Preprocessing, *, most_at_once: int | None = None
) -> Tensor:
    """Return the logits of all pictures, float32 [N, K] on the device of the data; the model is left as it was."""
    batch_size = evaluation_batch_size(input_bytes(data), most_at_once)
    with evaluation_mode(model), torch.inference_mode():
        if isinstance(data, ResidentFeatures):
            return torch.cat([model(batch).float() for batch in torch.split(data.values[0], batch_size)])
        batches = torch.split(data.rows, batch_size)
        return torch.cat([model(preprocessing.apply(data.pictures, rows)).float() for rows in batches])


@dataclass(frozen=True)
class Answered:
    """What a network says of N pictures.

    Args:
        logits: float32 [N, K].
        features: what the last dense layer is given, float32 [N, F]; None where the network does not end in one, or in
            one of more than MOST_FEATURES inputs.
    """

    logits: NDArray[np.float32]
    features: NDArray[np.float32] | None

    def split(self, sizes: Sequence[int]) -> list[Answered]:
        """Return the answers for so many pictures, then for so many, and so on."""
        places = np.cumsum(sizes)[:-1]
        logits = np.split(self.logits, places)
        features = [None] * len(logits) if self.features is None else np.split(self.features, places)
        return [Answered(*pair) for pair in zip(logits, features, strict=True)]


def predict_answers(
    model: nn.Module, data: Resident, preprocessing: Preprocessing, *, most_at_once: int | None = None
) -> Answered:
    """Return what the model says of all pictures; it is left as it was."""
    head, seen = find_dense_head(model), list[Tensor]()
    if head is None or head.in_features > MOST_FEATURES:
        logits = predict_logits(model, data, preprocessing, most_at_once=most_at_once)
        return Answered(logits.cpu().numpy(), None)

    def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0].float())

    handle = head.register_forward_pre_hook(keep)
    try:
        logits = predict_logits(model, data, preprocessing, most_at_once=most_at_once)
    finally:
        handle.remove()
    features = torch.cat(seen).cpu().numpy()
    return Answered(logits.cpu().numpy(), features if features.shape == (len(data), head.in_features) else None)


def mean_loss_and_accuracy(
    model: nn.Module, data: Resident, preprocessing: Preprocessing, *, most_at_once: int | None = None
) -> tuple[float, float]:
    """Return mean cross-entropy in nats and the fraction of right answers."""
    logits = predict_logits(model, data, preprocessing, most_at_once=most_at_once)
    loss = F.cross_entropy(logits, data.labels)
    return float(loss), float((logits.argmax(1) == data.labels).double().mean())

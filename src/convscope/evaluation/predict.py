"""Running a network over many pictures."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convscope.data.batches import Preprocessing, Resident, ResidentFeatures, input_bytes
from convscope.modes import evaluation_mode

EVALUATION_BATCH_BYTES = 4 * 2**20
"""Size of the float32 pictures of one batch; larger ones fall out of a CPU's cache and are slower."""


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


def mean_loss_and_accuracy(
    model: nn.Module, data: Resident, preprocessing: Preprocessing, *, most_at_once: int | None = None
) -> tuple[float, float]:
    """Return mean cross-entropy in nats and the fraction of right answers."""
    logits = predict_logits(model, data, preprocessing, most_at_once=most_at_once)
    loss = F.cross_entropy(logits, data.labels)
    return float(loss), float((logits.argmax(1) == data.labels).double().mean())

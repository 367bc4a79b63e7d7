"""Running a network, or part of one, over many images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from convscope.data.batches import Preprocessing, Resident, ResidentFeatures, input_bytes, make_resident
from convscope.data.dataset import ImageSet
from convscope.evaluation.metrics import make_predictions
from convscope.models.eval_mode import eval_mode
from convscope.models.surgery.head import find_dense_head
from convscope.results.run import Predictions

Floats = NDArray[np.float32]

FEATURES_BATCH = 32
"""Batch size in the frozen layers; larger batches are not faster on a CPU and need more memory."""
EVALUATION_BATCH_BYTES = 4 * 2**20
"""Size of the float32 images of one batch; a larger batch does not fit into a CPU's cache and is slower."""
MAX_FEATURES = 2048
"""With more, the features of a few thousand images would need more memory than the network."""


def evaluation_batch_size(image_bytes: int, most: int | None = None) -> int:
    """Return the number of images to classify at a time, at most `most`.

    Args:
        image_bytes: size of one image as float32 input of the network.
    """
    return min(1000 if most is None else most, max(32, EVALUATION_BATCH_BYTES // image_bytes))


@dataclass(frozen=True)
class Forward:
    """A way to run part of a network.

    Args:
        run: maps the part's input, float32 [B, ...], to its output, float32 [B, ...].
        engine: name and version of the engine; part of the cache key, because engines differ in the last digits.
    """

    run: Callable[[Floats], Floats]
    engine: str


def torch_forward(module: nn.Module, device: torch.device) -> Forward:
    """Return a module run by torch in evaluation mode."""

    def run(x: Floats) -> Floats:
        with torch.inference_mode():
            order = torch.channels_last if x.ndim == 4 else torch.preserve_format
            return np.asarray(module(torch.from_numpy(x).to(device, memory_format=order)).float().cpu().numpy())

    module.eval()
    return Forward(run, f"torch {torch.__version__} on {device.type}")


def predict_logits(
    model: nn.Module,
    data: Resident,
    preprocessing: Preprocessing,
    *,
    most_at_once: int | None = None,
    after_batch: Callable[[], None] = lambda: None,
) -> Tensor:
    """Return the logits of all images, float32 [N, K] on the device of the data; the model's modes do not change."""
    batch_size = evaluation_batch_size(input_bytes(data), most_at_once)
    found = []
    with eval_mode(model), torch.inference_mode():
        for rows in torch.split(data.rows, batch_size):
            if isinstance(data, ResidentFeatures):
                x = data.values[0].index_select(0, rows)
            else:
                x = preprocessing.apply(data.images, rows)
            found.append(model(x).float())
            after_batch()
        return torch.cat(found)


def predict_indices(
    model: nn.Module, images: ImageSet, indices: NDArray[np.int64], preprocessing: Preprocessing, device: torch.device
) -> Floats:
    """Return the logits of these images of a data set, float32 [N, K]."""
    if len(indices) == 0:
        return np.zeros((0, images.num_classes), np.float32)
    return np.asarray(predict_logits(model, make_resident(images, indices, device), preprocessing).cpu().numpy())


def predictions_of(images: ImageSet, indices: NDArray[np.int64], logits: Floats) -> Predictions:
    """Return the predictions that these logits [N, K] are."""
    return make_predictions(
        logits=logits,
        labels=images.labels[indices],
        ids=tuple(images.ids[i] for i in indices),
        class_names=images.class_names,
    )


@dataclass(frozen=True)
class ModelOutput:
    """The outputs of a network for N images.

    Args:
        logits: float32 [N, K].
        features: the input of the last dense layer, float32 [N, F]; None if the network does not end in a dense layer,
            or F would exceed MAX_FEATURES.
    """

    logits: Floats
    features: Floats | None

    def split(self, sizes: Sequence[int]) -> list[ModelOutput]:
        """Return the outputs for the first sizes[0] images, for the next sizes[1] images, and so on."""
        places = np.cumsum(sizes)[:-1]
        logits = np.split(self.logits, places)
        features = [None] * len(logits) if self.features is None else np.split(self.features, places)
        return [ModelOutput(*pair) for pair in zip(logits, features, strict=True)]


Outputs = Callable[..., list[ModelOutput]]
"""What a trained network says of images of its data set: an output for each array of indices that it is given."""


def predict_outputs(
    model: nn.Module, data: Resident, preprocessing: Preprocessing, *, most_at_once: int | None = None
) -> ModelOutput:
    """Return the outputs of the model for all images; its modes do not change."""
    head, inputs_seen = find_dense_head(model), list[Tensor]()
    if head is None or head.in_features > MAX_FEATURES:
        logits = predict_logits(model, data, preprocessing, most_at_once=most_at_once)
        return ModelOutput(logits.cpu().numpy(), None)

    with head.register_forward_pre_hook(lambda _, inputs: inputs_seen.append(inputs[0].float())):
        logits = predict_logits(model, data, preprocessing, most_at_once=most_at_once)
    features = torch.cat(inputs_seen).cpu().numpy()
    return ModelOutput(logits.cpu().numpy(), features if features.shape == (len(data), head.in_features) else None)


def mean_loss_and_accuracy(
    model: nn.Module,
    data: Resident,
    preprocessing: Preprocessing,
    *,
    most_at_once: int | None = None,
    after_batch: Callable[[], None] = lambda: None,
) -> tuple[float, float]:
    """Return mean cross-entropy in nats and the fraction of correct predictions."""
    logits = predict_logits(model, data, preprocessing, most_at_once=most_at_once, after_batch=after_batch)
    loss = F.cross_entropy(logits, data.labels)
    return float(loss), float((logits.argmax(1) == data.labels).double().mean())

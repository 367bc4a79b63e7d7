"""Transfer learning: a frozen network computes features once, a head is fitted on them, then more layers may learn."""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from convscope.config import ComputeConfig, TrainConfig
from convscope.data.batches import (
    Copies,
    Preprocessing,
    Resident,
    ResidentImages,
    copy_words,
    make_resident,
    make_resident_features,
)
from convscope.data.dataset import ImageSet
from convscope.data.splits import Splits
from convscope.device import capability, peak_memory_bytes
from convscope.errors import UsageError
from convscope.evaluation.predict import (
    FEATURES_BATCH,
    MAX_FEATURES,
    Forward,
    ModelOutput,
    Outputs,
    predict_outputs,
    torch_forward,
)
from convscope.models.surgery.head import multiplied
from convscope.models.surgery.stages import (
    Frozen,
    KeepsStatistics,
    Stage,
    dense_head,
    find_freezable,
    has_parameters,
    split_stages,
)
from convscope.progress import OnProgress
from convscope.results.memory import HEAD
from convscope.results.run import EpochRecord
from convscope.storage.run_folder import write_history
from convscope.training.features import extract_features, features_cache_key, features_key
from convscope.training.head import Floats, Head, class_weights, cross_entropy, fit_head
from convscope.training.loop import TrainResult, train
from convscope.training.state import TrainingData

MAX_CUT_BYTES = 2 * 2**30
"""Most bytes of features at the cut; beyond it the frozen part runs again in every epoch, on the same augmented copies.

A constant, as free memory would make two runs of one configuration differ.
"""


@dataclass(frozen=True)
class Transfer:
    """What training is given besides the network.

    Args:
        forward_of: returns the fastest way to run a frozen module on this device.
        run, on_progress, planned_bytes: see `loop.train`.
    """

    images: ImageSet
    splits: Splits
    preprocessing: Preprocessing
    device: torch.device
    forward_of: Callable[[nn.Module], Forward]
    config: TrainConfig
    compute: ComputeConfig
    run: Path
    on_progress: OnProgress
    planned_bytes: int | None = None


@dataclass(frozen=True)
class _Features:
    """The output of a frozen part for the images.

    Args:
        plain: for each image of a split, float32 [M, ...].
        rows: image index -> row of `plain`, int64.
        copies: for each augmented copy of the training images, float32 [N, ...]; empty without augmentation.
    """

    plain: Floats
    rows: NDArray[np.int64]
    copies: tuple[Floats, ...]

    def of(self, indices: NDArray[np.int64]) -> Floats:
        """Return the features of these images, float32 [len(indices), ...]."""
        return np.asarray(self.plain[self.rows[indices]])


def train_transfer(network: nn.Module, transfer: Transfer, *, resume: bool = False) -> tuple[TrainResult, Outputs]:
    """Train the network's head and, from epoch `unfreeze_at` on, more of its stages, in place.

    Args:
        network: on the device, with the initial weights; its last stage is a dense layer.

    Returns:
        How training went, and a function that returns the network's output for images of the data set.

    Raises:
        UsageError: the network cannot be cut into stages, or `unfreeze` names a stage it does not have.
        Interrupted: a stop was asked for; the state is saved.
    """
    config, start = transfer.config, time.perf_counter()
    stages = find_freezable(network, transfer.images.shape)
    frozen, rest = split_stages(stages, () if config.unfreeze_at is None else config.unfreeze or ("all",))
    cut = _compute(transfer, frozen) if len(frozen) and _keeps_features(frozen, transfer) else None
    record = None
    if config.unfreeze_at != 1:
        features = _head_features(transfer, stages, rest, cut)
        record, outputs = _fit_head(transfer, dense_head(rest), features, start)
        write_history(transfer.run, (record,))
        if config.unfreeze_at is None:
            peaks = {HEAD: peak_memory_bytes(transfer.device)}
            return TrainResult((record,), record.epoch, record.seconds, peaks=peaks), outputs
    return _fine_tune(transfer, frozen, rest, cut, record, resume=resume)


def _head_features(transfer: Transfer, stages: list[Stage], rest: nn.Sequential, cut: _Features | None) -> _Features:
    """Return the features that the head sees while all else is frozen, computed from those at the cut if possible."""
    if cut is None:
        frozen, rest = split_stages(stages, ())
        return _compute(transfer, Frozen(frozen, *list(rest)[:-1], nn.Flatten()))
    between = copy.deepcopy(nn.Sequential(*list(rest)[:-1], nn.Flatten()))  # frozen now, trained later
    exported = has_parameters(between)  # pooling and the like is too little to be worth exporting
    forward = transfer.forward_of(Frozen(between)) if exported else torch_forward(between, transfer.device)

    def onward(values: Floats) -> Floats:
        starts = range(0, len(values), FEATURES_BATCH)
        return np.concatenate([forward.run(np.array(values[start : start + FEATURES_BATCH])) for start in starts])

    return _Features(onward(cut.plain), cut.rows, tuple(map(onward, cut.copies)))


def _fit_head(
    transfer: Transfer, head_layer: nn.Linear, features: _Features, start: float
) -> tuple[EpochRecord, Outputs]:
    """Fit the head and copy it into the network; return its record and a function that returns its outputs."""
    images, splits, config = transfer.images, transfer.splits, transfer.config
    if head_layer.out_features != images.num_classes:
        raise UsageError(
            f"the last layer has {head_layer.out_features} outputs for {images.num_classes} classes, so no head can be "
            "fitted; train all layers with --no-freeze"
        )
    given = features  # the head may use their square roots
    copies = tuple(multiplied(head_layer, copy) for copy in features.copies)
    features = replace(features, plain=multiplied(head_layer, features.plain), copies=copies)
    labels = images.labels[splits.train]
    validation = (features.of(splits.validation), images.labels[splits.validation]) if len(splits.validation) else None
    weights = class_weights(config, labels, images.num_classes)
    head = fit_head(
        np.concatenate(copies) if copies else features.of(splits.train),
        np.tile(labels, max(1, len(copies))),
        num_classes=images.num_classes,
        validation=validation,
        class_weights=weights,
        on_progress=transfer.on_progress,
    )
    with torch.no_grad():
        head_layer.weight.copy_(torch.from_numpy(head.weight))
        head_layer.bias.copy_(torch.from_numpy(head.bias))
    train_loss, train_accuracy = _loss_and_accuracy(head, features.of(splits.train), labels, weights)
    validation_loss, validation_accuracy = (None, None) if validation is None else _loss_and_accuracy(head, *validation)
    record = EpochRecord(
        epoch=1 if config.unfreeze_at is None else config.unfreeze_at - 1,
        train_loss=train_loss,
        train_accuracy=train_accuracy,
        validation_loss=validation_loss,
        validation_accuracy=validation_accuracy,
        lr=0.0,  # the head is fitted to its optimum, without a learning rate
        examples_seen=len(splits.train),
        seconds=time.perf_counter() - start,
    )
    keeps_features = head_layer.in_features <= MAX_FEATURES and transfer.compute.memory is None

    def outputs(*indices: NDArray[np.int64]) -> list[ModelOutput]:
        whole = np.concatenate(indices)
        output = ModelOutput(head.logits(features.of(whole)), given.of(whole) if keeps_features else None)
        return output.split([len(each) for each in indices])

    return record, outputs


def _loss_and_accuracy(
    head: Head, features: Floats, labels: NDArray[np.int64], weights: Sequence[float] | None = None
) -> tuple[float, float]:
    logits = head.logits(features)
    return cross_entropy(logits, labels, weights), float((logits.argmax(axis=1) == labels).mean())


def _fine_tune(
    transfer: Transfer,
    frozen: Frozen,
    rest: nn.Sequential,
    cut: _Features | None,
    record: EpochRecord | None,
    *,
    resume: bool,
) -> tuple[TrainResult, Outputs]:
    """Train the rest, on features at the cut if there are any; return values as of `train_transfer`."""
    images, splits, config = transfer.images, transfer.splits, transfer.config
    for stage in rest:
        stage.requires_grad_(not isinstance(stage, Frozen))
    if record is not None:
        rest = KeepsStatistics(*rest)
    model = nn.Sequential(frozen, rest) if cut is None else rest

    def resident(indices: NDArray[np.int64]) -> Resident:
        if cut is None:
            return make_resident(images, indices, transfer.device)
        return make_resident_features([cut.plain], cut.rows[indices], images.labels[indices], transfer.device)

    given, validation = resident(splits.train), resident(splits.validation) if len(splits.validation) else None
    if cut is not None and cut.copies:
        numbers = np.arange(len(splits.train))
        given = make_resident_features(cut.copies, numbers, images.labels[splits.train], transfer.device)
    elif isinstance(given, ResidentImages) and len(frozen):
        given = replace(given, copies=Copies(config.augmented_copies, splits.train))
    tuning = replace(transfer, config=replace(config, lr=config.unfreeze_lr))
    result = train_layers(model, tuning, given, validation, before=record, resume=resume)

    def outputs(*indices: NDArray[np.int64]) -> list[ModelOutput]:
        most_at_once, whole = transfer.compute.evaluation_batch_size, resident(np.concatenate(indices))
        output = predict_outputs(model, whole, transfer.preprocessing, most_at_once=most_at_once)
        return output.split([len(each) for each in indices])

    return result, outputs


def train_layers(
    model: nn.Module,
    transfer: Transfer,
    given: Resident,
    validation: Resident | None,
    *,
    before: EpochRecord | None = None,
    resume: bool,
) -> TrainResult:
    """Train the model in place on images or features on the device; `before` is described in `loop.train`."""
    images, chosen = transfer.images, transfer.splits.train
    data = TrainingData(
        train=given,
        validation=validation,
        preprocessing=transfer.preprocessing,
        ids=tuple(images.ids[i] for i in chosen),
        num_classes=images.num_classes,
        class_weights=class_weights(transfer.config, images.labels[chosen], images.num_classes),
    )
    return train(
        model,
        data,
        transfer.config,
        transfer.run,
        compute=transfer.compute,
        on_progress=transfer.on_progress,
        resume=resume,
        before=before,
        planned_bytes=transfer.planned_bytes,
    )


def _compute(transfer: Transfer, frozen: nn.Module) -> _Features:
    """Return the output of the frozen part for all images in use and for augmented copies of the training images."""
    config, images = transfer.config, transfer.images
    forward = transfer.forward_of(frozen)
    batch_size = min(FEATURES_BATCH, transfer.compute.evaluation_batch_size or FEATURES_BATCH)
    rounding = batch_size, capability(transfer.device)
    key = features_key(frozen, forward.engine, images.shape, images.fingerprint, transfer.preprocessing, *rounding)

    def extract(indices: NDArray[np.int64], augment: tuple[str, ...] = (), copy: int = 0) -> Floats:
        cache_key = features_cache_key(key, indices, *((augment, config.seed, copy) if augment else ()))
        return extract_features(
            forward,
            images.images,
            indices,
            transfer.preprocessing,
            augment=augment,
            words=copy_words(config.seed, copy),
            batch_size=batch_size,
            cache_key=cache_key,
            on_progress=transfer.on_progress,
        )

    used = _used(transfer.splits)
    rows = np.zeros(len(images), np.int64)
    rows[used] = np.arange(len(used))
    copies = range(config.augmented_copies if config.augment else 0)
    return _Features(extract(used), rows, tuple(extract(transfer.splits.train, config.augment, n) for n in copies))


def _used(splits: Splits) -> NDArray[np.int64]:
    return np.sort(np.concatenate([splits.train, splits.validation, splits.test]))


def _keeps_features(frozen: nn.Module, transfer: Transfer) -> bool:
    """Return whether the features at the cut are kept for all epochs; under a memory limit they are not planned for."""
    config = transfer.config
    if transfer.compute.memory is not None:
        return False
    with torch.inference_mode():
        values: Tensor = frozen(torch.zeros(1, *transfer.images.shape, device=transfer.device))
    images = len(_used(transfer.splits)) * (1 + (config.augmented_copies if config.augment else 0))
    return 4 * values.numel() * images <= MAX_CUT_BYTES

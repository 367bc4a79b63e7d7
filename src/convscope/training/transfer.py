"""Transfer learning: a frozen network computes its features once, a head is fitted on them, then more may learn."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from convscope.config import TrainConfig
from convscope.data.batches import Preprocessing, Resident, ResidentFeatures, make_resident
from convscope.data.image_set import ImageSet
from convscope.data.splits import Splits
from convscope.device import peak_memory_bytes
from convscope.errors import Interrupted, UsageError
from convscope.evaluation.forward import Forward, torch_forward
from convscope.evaluation.predict import MOST_FEATURES, Answered, predict_answers
from convscope.models.head import multiplied
from convscope.models.stages import (
    Frozen,
    KeepsStatistics,
    Stage,
    dense_head,
    find_freezable,
    has_parameters,
    split_stages,
)
from convscope.progress import OnProgress
from convscope.results import EpochRecord
from convscope.runs import write_history
from convscope.training.features import BATCH_SIZE, extract_features, features_key, features_name
from convscope.training.head import Floats, Head, class_weights, cross_entropy, fit_head
from convscope.training.loop import TrainingData, TrainResult, train
from convscope.training.plan import HEAD

MEMORY_SHARE = 0.5
"""Part of the free memory that features at the cut may take; beyond it the frozen part runs again in every epoch."""


@dataclass(frozen=True)
class Sources:
    """What transfer learning is given beside the network.

    Args:
        forward_of: returns the fastest way to run a frozen module on this device.
        cache: folder that keeps features between runs; None keeps none.
    """

    images: ImageSet
    splits: Splits
    preprocessing: Preprocessing
    device: torch.device
    forward_of: Callable[[nn.Module], Forward]
    cache: Path | None


@dataclass(frozen=True)
class _Sitting:
    """What the functions below share while one network is trained."""

    sources: Sources
    config: TrainConfig
    run: Path
    on_progress: OnProgress
    stop_requested: Callable[[], bool]
    planned_bytes: int | None


@dataclass(frozen=True)
class _Features:
    """What a frozen part makes of the pictures.

    Args:
        plain: of every picture of a part, float32 [M, ...].
        rows: picture index -> row of `plain`, int64.
        views: of random versions of the training pictures, float32 [N, ...] each; empty without augmentation.
    """

    plain: Floats
    rows: NDArray[np.int64]
    views: tuple[Floats, ...]

    def of(self, indices: NDArray[np.int64]) -> Floats:
        """Return the features of these pictures, float32 [len(indices), ...]."""
        return np.asarray(self.plain[self.rows[indices]])


def train_transfer(
    network: nn.Module,
    sources: Sources,
    config: TrainConfig,
    run: Path,
    *,
    evaluated: NDArray[np.int64],
    on_progress: OnProgress,
    stop_requested: Callable[[], bool] = lambda: False,
    resume: bool = False,
    planned_bytes: int | None = None,
) -> tuple[TrainResult, Answered]:
    """Train the network's head, and from epoch `config.unfreeze_at` on more of it, in place.

    Args:
        network: with the weights to start from, on the device; its last stage is a dense layer.
        run: run folder, locked by the caller.
        evaluated: indices of pictures to classify in the end.
        planned_bytes: see `loop.train`.

    Returns:
        How training went, and what the network says of the `evaluated` pictures.

    Raises:
        UsageError: the network cannot be cut into stages, or has no stage of a name in `config.unfreeze`.
        Interrupted: a stop was requested; what was computed is kept.
    """
    sitting = _Sitting(sources, config, run, on_progress, stop_requested, planned_bytes)
    start = time.perf_counter()
    stages = find_freezable(network, sources.images.shape)
    unfrozen = () if config.unfreeze_at is None else config.unfreeze or ("all",)
    frozen, rest = split_stages(stages, unfrozen)
    cut = _compute(sitting, frozen) if len(frozen) and _fits_in_memory(frozen, sources, config) else None
    record = None
    if config.unfreeze_at != 1:
        features = _head_features(sitting, stages, rest, cut)
        record, answered = _fit_head(sitting, dense_head(rest), features, evaluated, start)
        write_history(run, (record,))
        if config.unfreeze_at is None:
            peaks = {HEAD: peak_memory_bytes(sources.device)}
            return TrainResult((record,), record.epoch, record.seconds, peaks=peaks), answered
    return _fine_tune(sitting, frozen, rest, cut, record, evaluated, resume=resume)


def _head_features(sitting: _Sitting, stages: list[Stage], rest: nn.Sequential, cut: _Features | None) -> _Features:
    """Return what the head sees while all before it is frozen; from the features at the cut where there are any."""
    if cut is None:
        frozen, rest = split_stages(stages, ())
        return _compute(sitting, Frozen(frozen, *list(rest)[:-1], nn.Flatten()))
    between = copy.deepcopy(nn.Sequential(*list(rest)[:-1], nn.Flatten()))  # frozen for the moment, to learn later
    sources = sitting.sources
    exported = has_parameters(between)  # the rest, pooling and the like, is too little to be worth it
    forward = sources.forward_of(Frozen(between)) if exported else torch_forward(between, sources.device)

    def onward(values: Floats) -> Floats:
        starts = range(0, len(values), BATCH_SIZE)
        return np.concatenate([forward.run(np.array(values[start : start + BATCH_SIZE])) for start in starts])

    return _Features(onward(cut.plain), cut.rows, tuple(onward(view) for view in cut.views))


def _fit_head(
    sitting: _Sitting, head_layer: nn.Linear, features: _Features, evaluated: NDArray[np.int64], start: float
) -> tuple[EpochRecord, Answered]:
    """Fit the head and put it into the network; return how well it does and its answers to the evaluated pictures."""
    images, splits, config = sitting.sources.images, sitting.sources.splits, sitting.config
    if head_layer.out_features != images.num_classes:
        raise UsageError(
            f"the last layer has {head_layer.out_features} outputs for {images.num_classes} classes, so no head can be "
            "fitted; train the network whole with --no-freeze"
        )
    given = features  # to the head, which may take square roots of them
    views = tuple(multiplied(head_layer, view) for view in features.views)
    features = replace(features, plain=multiplied(head_layer, features.plain), views=views)
    labels = images.labels[splits.train]
    validation = (features.of(splits.validation), images.labels[splits.validation]) if len(splits.validation) else None
    head = fit_head(
        np.concatenate(features.views) if features.views else features.of(splits.train),
        np.tile(labels, max(1, len(features.views))),
        num_classes=images.num_classes,
        validation=validation,
        class_weights=class_weights(config, labels, images.num_classes),
        on_progress=sitting.on_progress,
    )
    with torch.no_grad():
        head_layer.weight.copy_(torch.from_numpy(head.weight))
        head_layer.bias.copy_(torch.from_numpy(head.bias))
    train_loss, train_accuracy = _loss_and_accuracy(head, features.of(splits.train), labels)
    validation_loss, validation_accuracy = (None, None) if validation is None else _loss_and_accuracy(head, *validation)
    record = EpochRecord(
        epoch=1 if config.unfreeze_at is None else config.unfreeze_at - 1,
        train_loss=train_loss,
        train_accuracy=train_accuracy,
        validation_loss=validation_loss,
        validation_accuracy=validation_accuracy,
        lr=0.0,  # the head has no learning rate: it is fitted to its optimum
        examples_seen=len(splits.train),
        seconds=time.perf_counter() - start,
    )
    keep = head_layer.in_features <= MOST_FEATURES and config.memory is None
    return record, Answered(head.logits(features.of(evaluated)), given.of(evaluated) if keep else None)


def _loss_and_accuracy(head: Head, features: Floats, labels: NDArray[np.int64]) -> tuple[float, float]:
    logits = head.logits(features)
    return cross_entropy(logits, labels), float((logits.argmax(axis=1) == labels).mean())


def _fine_tune(
    sitting: _Sitting,
    frozen: Frozen,
    rest: nn.Sequential,
    cut: _Features | None,
    record: EpochRecord | None,
    evaluated: NDArray[np.int64],
    *,
    resume: bool,
) -> tuple[TrainResult, Answered]:
    """Train the rest, on features at the cut where there are any; return as `train_transfer`."""
    sources, config = sitting.sources, sitting.config
    images, splits = sources.images, sources.splits
    for stage in rest:
        stage.requires_grad_(not isinstance(stage, Frozen))
    if record is not None:
        rest = KeepsStatistics(*rest)
    model = nn.Sequential(frozen, rest) if cut is None else rest

    def resident(indices: NDArray[np.int64], views: tuple[Floats, ...] = ()) -> Resident:
        if cut is None:
            return make_resident(images, indices, sources.device)
        values = torch.from_numpy(np.stack(views or [cut.of(indices)])).to(sources.device)
        return ResidentFeatures(values, torch.from_numpy(images.labels[indices]).to(sources.device))

    data = TrainingData(
        train=resident(splits.train, () if cut is None else cut.views),
        validation=resident(splits.validation) if len(splits.validation) else None,
        preprocessing=sources.preprocessing,
        ids=tuple(images.ids[i] for i in splits.train),
        num_classes=images.num_classes,
        class_weights=class_weights(config, images.labels[splits.train], images.num_classes),
    )
    result = train(
        model,
        data,
        replace(config, lr=config.unfreeze_lr),
        sitting.run,
        on_progress=sitting.on_progress,
        stop_requested=sitting.stop_requested,
        resume=resume,
        before=record,
        planned_bytes=sitting.planned_bytes,
    )
    most_at_once = config.evaluation_batch
    return result, predict_answers(model, resident(evaluated), sources.preprocessing, most_at_once=most_at_once)


def _compute(sitting: _Sitting, frozen: nn.Module) -> _Features:
    """Return the frozen part's output for all pictures in use, and for random views of those of the training part."""
    sources, config = sitting.sources, sitting.config
    forward = sources.forward_of(frozen)
    key = features_key(frozen, forward.engine, sources.images.shape, sources.images.fingerprint, sources.preprocessing)

    def extract(indices: NDArray[np.int64], augment: tuple[str, ...] = (), view: int = 0) -> Floats:
        name = features_name(key, indices, *((augment, config.seed, view) if augment else ()))
        values = extract_features(
            forward,
            sources.images.images,
            indices,
            sources.preprocessing,
            augment=augment,
            words=(config.seed, "view", view),
            batch_size=min(BATCH_SIZE, config.evaluation_batch or BATCH_SIZE),
            cached=None if sources.cache is None else sources.cache / f"{name}.npy",
            on_progress=sitting.on_progress,
            stop_requested=sitting.stop_requested,
        )
        if values is None:
            raise Interrupted(
                "stopped while features were computed; those that were finished are kept. "
                f"Go on with: convscope train --resume {sitting.run}"
            )
        return values

    used = _used(sources.splits)
    rows = np.zeros(len(sources.images), np.int64)
    rows[used] = np.arange(len(used))
    views = range(config.views if config.augment else 0)
    return _Features(extract(used), rows, tuple(extract(sources.splits.train, config.augment, view) for view in views))


def _used(splits: Splits) -> NDArray[np.int64]:
    return np.sort(np.concatenate([splits.train, splits.validation, splits.test]))


def _fits_in_memory(frozen: nn.Module, sources: Sources, config: TrainConfig) -> bool:
    with torch.inference_mode():
        values: Tensor = frozen(torch.zeros(1, *sources.images.shape, device=sources.device))
    pictures = len(_used(sources.splits)) * (1 + (config.views if config.augment else 0))
    return 4 * values.numel() * pictures < MEMORY_SHARE * psutil.virtual_memory().available

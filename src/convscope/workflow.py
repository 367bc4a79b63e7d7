"""The stages of a run, wired together: prepare, start, train, evaluate, write down."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from convscope import __version__
from convscope.budget.costs import count_macs, count_training_flops
from convscope.changes import describe_change, write_digests
from convscope.config import RunConfig, config_to_json
from convscope.data import load_images
from convscope.data.batches import Preprocessing, channel_statistics, make_preprocessing, make_resident
from convscope.data.image_set import ImageSet
from convscope.data.intake import Fit, fit_picture
from convscope.data.splits import Splits, make_splits
from convscope.device import (
    autocast_dtype,
    choose_device,
    configure_threads,
    describe_hardware,
    keep_freed_memory,
    limit_device_memory,
    measure_peak_flops,
    peak_memory_bytes,
    release_freed_memory,
    return_free_memory,
    threads_for_step,
)
from convscope.download import cache_folder
from convscope.errors import DataError, ResumeMismatch, UsageError
from convscope.evaluation.calibration import calibrate
from convscope.evaluation.forward import Forward, torch_forward
from convscope.evaluation.metrics import accuracy_without, compute_metrics, make_predictions
from convscope.evaluation.predict import Answered, predict_answers, predict_logits
from convscope.evaluation.records import PREDICTION_COLUMNS, mistake_rows, prediction_rows, result_to_json
from convscope.exporting.forward import fastest_forward
from convscope.exporting.model_file import write_certified
from convscope.exporting.unknown import choose_rule
from convscope.inspection.inside import inside_panels
from convscope.inspection.subject import Subject
from convscope.models import build_model, count_parameters, published_preprocessing
from convscope.models.pretrained import describe_weights, fetch_weights
from convscope.models.saved import SavedModel, channels_last, preprocessing_to_json, save_model
from convscope.models.whitening import whiten_first_layer
from convscope.panels import write_panels
from convscope.progress import OnProgress, Progress
from convscope.randomness import derive_seed, permutation
from convscope.report.page import build_report
from convscope.results import Predictions, RunResult
from convscope.runs import (
    csv_bytes,
    read_json,
    sha256,
    write_bytes,
    write_csv,
    write_json,
    write_thumbnails,
)
from convscope.training.head import class_weights
from convscope.training.interrupts import stop_on_signals
from convscope.training.loop import TrainingData, TrainResult
from convscope.training.loop import train as train_loop
from convscope.training.plan import EVALUATION, MODEL_FILE, REPORT
from convscope.training.plan_record import complete_plan, read_plan
from convscope.training.transfer import Sources, train_transfer
from convscope.training.views import augmentation_grid

SHOWN_PICTURES = 20
"""Samples, first predictions and worst mistakes that a report shows."""
THUMBNAIL_PX = 128
WHITENING_PICTURES = 2000
"""Training pictures whose patches the first layer is computed from, at most."""
CALIBRATION_PICTURES = 2000
"""Validation pictures that the temperature is fitted on, at most: it is one number."""


@dataclass(frozen=True)
class Prepared:
    """A run's data and network, ready to train.

    Args:
        statistics: mean and deviation of the training part, 0..1.
        macs: multiply-accumulate operations for one prediction.
    """

    config: RunConfig
    images: ImageSet
    splits: Splits
    statistics: tuple[tuple[float, ...], tuple[float, ...]]
    network: torch.nn.Module
    macs: int
    device: torch.device

    @property
    def preprocessing(self) -> Preprocessing:
        """What is done to a picture before the network sees it: as its trained weights expect it, if it has any."""
        published = published_preprocessing(self.config.model)
        statistics = self.statistics if published is None else published.statistics(self.images.shape[0])
        return make_preprocessing(*statistics, normalize=self.config.train.normalize)

    @property
    def evaluation_part(self) -> str:
        """The part that results are measured on: test, or validation where there is no test part."""
        return "test" if len(self.splits.test) else "validation"


def prepare(config: RunConfig, on_progress: OnProgress, *, images: ImageSet | None = None) -> Prepared:
    """Read and split the data and build the network, with trained weights or the seed's random ones, on the device.

    Args:
        images: to be used in place of those that the configuration names.

    Raises:
        UsageError, DataError, WeightsError: the options, data or weights cannot be used; nothing was written.
    """
    device = choose_device(config.train.device)
    if config.train.memory is None:
        keep_freed_memory()
    else:
        release_freed_memory()
        limit_device_memory(device, config.train.memory)
    configure_threads(config.train.threads)
    fetch_weights(config.model, on_progress)  # before the pictures, which may take long
    images = load_images(config.data, on_progress) if images is None else images
    splits = make_splits(images, config.data)
    if len(splits.test) == len(splits.validation) == 0:
        raise UsageError("nothing is left to evaluate on; give test or validation a share with --split, as in 80/0/20")
    torch.manual_seed(derive_seed(config.train.seed, "weights"))
    network = channels_last(build_model(config.model, images.shape, images.num_classes)).to(device)
    macs = count_macs(network, images.shape)
    if config.train.threads is None:
        configure_threads(threads_for_step(macs * config.train.batch_size))
    statistics = channel_statistics(images.images[splits.train])
    prepared = Prepared(config, images, splits, statistics, network, macs, device)
    if config.train.whiten:
        _whiten(prepared)
    return prepared


def _whiten(prepared: Prepared) -> None:
    """Compute the network's first layer from pictures of the training part."""
    train = prepared.splits.train
    chosen = train[permutation(len(train), "whitening")[:WHITENING_PICTURES]]
    pictures = make_resident(prepared.images, chosen, prepared.device).select()
    try:
        whiten_first_layer(prepared.network, prepared.preprocessing.apply(pictures))
    except UsageError as error:
        raise UsageError(f"model {prepared.config.model.name!r}: {error}") from error


def write_start(run: Path, prepared: Prepared) -> None:
    """Write what is known before training into a new run folder: run.json, split.csv, skipped.csv."""
    images, splits = prepared.images, prepared.splits
    split_csv = csv_bytes(("picture", "label", "split"), splits.rows(images))
    write_bytes(run / "split.csv", split_csv)
    write_digests(run, images)
    write_csv(run / "skipped.csv", ("file", "reason", "remedy"), ((s.file, s.reason, s.remedy) for s in images.skipped))
    shown = splits.train[permutation(len(splits.train), "samples")[:SHOWN_PICTURES]]
    if prepared.config.train.augment:
        write_panels(run / "augmentation.npz", (augmentation_grid(images, splits.train, prepared.config),))
    mean, std = prepared.statistics
    preprocessing = prepared.preprocessing
    write_json(
        run / "run.json",
        {
            "convscope": __version__,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "config": config_to_json(prepared.config),
            "class_names": images.class_names,
            "model": {
                "name": prepared.config.model.name,
                "weights": describe_weights(prepared.config.model),
                "num_params": count_parameters(prepared.network),
                "macs": prepared.macs,
                "input_shape": images.shape,
            },
            "preprocessing": preprocessing_to_json(images.shape, preprocessing.mean, preprocessing.std),
            "data": {
                "name": images.name,
                "fingerprint": images.fingerprint,
                "num_images": len(images),
                "num_skipped": len(images.skipped),
                "num_ignored": images.ignored,
                "notes": [*images.notes, *splits.notes],
                "class_counts": {
                    part: np.bincount(images.labels[indices], minlength=images.num_classes).tolist()
                    for part, indices in splits.items()
                },
                "mean": mean,
                "std": std,
                "samples": [images.ids[i] for i in shown],
            },
            "split_sha256": sha256(split_csv),
            "versions": {"python": platform.python_version()}
            | {name: version(name) for name in ("torch", "numpy", "pillow", "safetensors")},
            "hardware": asdict(describe_hardware(prepared.device)),
        },
    )


def check_same(run: Path, prepared: Prepared) -> None:
    """Refuse to go on with other data than those the run was started with.

    Raises:
        ResumeMismatch: names the difference.
    """
    recorded, images = read_json(run / "run.json"), prepared.images
    if recorded["class_names"] != list(images.class_names):
        raise ResumeMismatch(
            f"{run} was started with the classes {', '.join(recorded['class_names'])}; the data now have "
            f"{', '.join(images.class_names)}. Bring the data back as they were, or start a new run"
        )
    if recorded["data"]["fingerprint"] != images.fingerprint:
        raise ResumeMismatch(
            f"{run} was started with other pictures or labels ({recorded['data']['num_images']} pictures then, "
            f"{len(images)} now{describe_change(run, images)}). Bring the data back as they were, or start a new run"
        )
    weights = describe_weights(prepared.config.model)
    if recorded["model"].get("weights") != weights:
        raise ResumeMismatch(
            f"{run} was started from other trained weights ({recorded['model'].get('weights')} then, {weights} now). "
            "Bring them back as they were, or start a new run"
        )


def finish(run: Path, prepared: Prepared, *, report: bool, resume: bool, on_progress: OnProgress) -> RunResult:
    """Train to the end, measure on the evaluation part and write all results, in a run folder the caller locked."""
    config, images, network, part = prepared.config, prepared.images, prepared.network, prepared.evaluation_part
    indices = getattr(prepared.splits, part)
    calibrating, planned = calibration_indices(prepared.splits), read_plan(run)
    (keep_freed_memory if planned is None or planned["keeps_freed_memory"] else release_freed_memory)()
    trained, (answered, of_calibrating) = train_prepared(
        run, prepared, (indices, calibrating), planned, resume=resume, on_progress=on_progress
    )
    peaks = dict(trained.peaks)
    if EVALUATION in peaks:
        peaks[EVALUATION] = peak_memory_bytes(prepared.device)
    if config.train.memory is not None:
        release_freed_memory()
    return_free_memory()
    logits = answered.logits
    predictions = _predictions(images, indices, logits)
    unknown = choose_rule(of_calibrating.logits, of_calibrating.features, images.labels[calibrating])
    test_kept = None
    if unknown is not None:
        test_kept = float((unknown.scores(logits, answered.features) >= unknown.rule.threshold).mean())
    saved = SavedModel(
        network=network,
        name=config.model.name,
        stack=config.model.stack,
        head=config.model.head,
        input_shape=images.shape,
        class_names=images.class_names,
        mean=prepared.preprocessing.mean,
        std=prepared.preprocessing.std,
    )
    save_model(run, saved)
    on_progress(Progress("writing model.onnx and comparing it", 0, None))
    certificate = write_certified(
        run,
        saved,
        config.data,
        images,
        tested=indices,
        test_kept=test_kept,
        unknown=unknown,
        device=prepared.device,
        most_at_once=config.train.evaluation_batch,
        too_large=planned is not None and not planned["model_file"],
    )
    peaks[MODEL_FILE] = peak_memory_bytes(prepared.device)
    recorded = read_json(run / "run.json")
    result = RunResult(
        run=str(run),
        model=config.model.name,
        data=images.name,
        seed=config.train.seed,
        part=part,
        metrics=compute_metrics(predictions),
        **leak_figures(images, prepared.splits, part, predictions),
        num_params=recorded["model"]["num_params"],
        macs=recorded["model"]["macs"],
        epochs=trained.history[-1].epoch,
        best_epoch=trained.best_epoch,
        train_seconds=trained.train_seconds,
        peak_memory_bytes=peak_memory_bytes(prepared.device),
        fraction_of_peak_flops=None if config.frozen else _fraction_of_peak(prepared, trained),
        split_sha256=recorded["split_sha256"],
        notes=(*_data_notes(images), *trained.notes, *([certificate.remark] if certificate.remark else [])),
    )
    write_evaluation(run, predictions, result)
    calibration = calibrate(
        part,
        logits,
        predictions.labels,
        validation_logits=of_calibrating.logits,
        validation_labels=images.labels[calibrating],
    )
    write_json(run / "calibration.json", asdict(calibration))
    _write_inside(run, prepared, int(indices[0]))
    _write_thumbnails(run, images, recorded["data"]["samples"], predictions)
    peaks[REPORT] = peak_memory_bytes(prepared.device)
    if planned is not None:
        complete_plan(run, planned, peaks, trained)
    if report:
        on_progress(Progress("writing the report", 0, None))
        build_report(run)
        peaks[REPORT] = peak_memory_bytes(prepared.device)
        if planned is not None:
            complete_plan(run, planned, peaks, trained)
    return result


def _forward_of(module: nn.Module, device: torch.device, config: RunConfig) -> Forward:
    """Return the way to run a frozen module: under a limit torch's, whose memory is predicted, else the fastest."""
    if config.train.memory is not None:
        return torch_forward(module, device)
    return fastest_forward(module, device, threads=config.train.threads)


def train_prepared(
    run: Path,
    prepared: Prepared,
    evaluated: Sequence[NDArray[np.int64]],
    planned: Mapping[str, Any] | None = None,
    *,
    resume: bool,
    on_progress: OnProgress,
) -> tuple[TrainResult, list[Answered]]:
    """Train all layers, or what a frozen network leaves to train; return how it went and answers to the `evaluated`.

    Args:
        run: folder for checkpoints and history.jsonl.
        evaluated: indices of pictures to classify in the end, part by part.
        planned: plan.json, None where nothing was planned.
    """
    config, images, splits, device = prepared.config, prepared.images, prepared.splits, prepared.device
    network, preprocessing = prepared.network, prepared.preprocessing
    with stop_on_signals() as stop_requested:
        sitting: Any = {"on_progress": on_progress, "stop_requested": stop_requested, "resume": resume}
        sitting["planned_bytes"] = None if planned is None else planned["peak"]["predicted_bytes"]
        if config.frozen:
            sources = Sources(
                images=images,
                splits=splits,
                preprocessing=preprocessing,
                device=device,
                forward_of=lambda module: _forward_of(module, device, config),
                cache=cache_folder("features", otherwise="train with --no-freeze"),
            )
            together = np.concatenate(evaluated)
            trained, answered = train_transfer(network, sources, config.train, run, evaluated=together, **sitting)
            return trained, answered.split([len(part) for part in evaluated])
        data = TrainingData(
            train=make_resident(images, splits.train, device),
            validation=make_resident(images, splits.validation, device) if len(splits.validation) else None,
            preprocessing=preprocessing,
            ids=tuple(images.ids[i] for i in splits.train),
            num_classes=images.num_classes,
            class_weights=class_weights(config.train, images.labels[splits.train], images.num_classes),
        )
        trained = train_loop(network, data, config.train, run, **sitting)
        on_progress(Progress(f"evaluating on the {prepared.evaluation_part} part", 0, None))
        return trained, [_answer(prepared, part) for part in evaluated]


def _answer(prepared: Prepared, part: NDArray[np.int64]) -> Answered:
    """Return what the trained network says of a part; under a limit on memory without features."""
    config, images, device = prepared.config.train, prepared.images, prepared.device
    network, preprocessing, most_at_once = prepared.network, prepared.preprocessing, config.evaluation_batch
    if len(part) == 0 or config.memory is not None:
        logits = predict_indices(network, images, part, preprocessing, device, most_at_once=most_at_once)
        return Answered(logits, None)
    return predict_answers(network, make_resident(images, part, device), preprocessing, most_at_once=most_at_once)


def _data_notes(images: ImageSet) -> list[str]:
    if not images.skipped:
        return []
    files = "1 file was" if len(images.skipped) == 1 else f"{len(images.skipped):,} files were"
    return [f"{files} skipped, {len(images):,} pictures used; skipped.csv says why and what helps"]


def _fraction_of_peak(prepared: Prepared, trained: TrainResult) -> float:
    images, splits, network, epochs = prepared.images, prepared.splits, prepared.network, len(trained.history)
    flops = epochs * len(splits.train) * count_training_flops(network, images.shape)
    flops += epochs * len(splits.validation) * 2 * prepared.macs
    reduced = autocast_dtype(prepared.device, wanted=prepared.config.train.mixed_precision)
    return flops / trained.train_seconds / measure_peak_flops(prepared.device, reduced or torch.float32)


def predict(
    network: torch.nn.Module,
    images: ImageSet,
    indices: NDArray[np.int64],
    preprocessing: Preprocessing,
    device: torch.device,
) -> Predictions:
    """Return what the network says of these pictures."""
    return _predictions(images, indices, predict_indices(network, images, indices, preprocessing, device))


def predict_indices(
    network: torch.nn.Module,
    images: ImageSet,
    indices: NDArray[np.int64],
    preprocessing: Preprocessing,
    device: torch.device,
    *,
    most_at_once: int | None = None,
) -> NDArray[np.float32]:
    """Return the network's logits for these pictures, float32 [N, K]."""
    if len(indices) == 0:
        return np.zeros((0, images.num_classes), np.float32)
    resident = make_resident(images, indices, device)
    logits = predict_logits(network, resident, preprocessing, most_at_once=most_at_once)
    return np.asarray(logits.cpu().numpy())


def _predictions(images: ImageSet, indices: NDArray[np.int64], logits: NDArray[np.float32]) -> Predictions:
    return make_predictions(
        logits=logits,
        labels=images.labels[indices],
        ids=tuple(images.ids[i] for i in indices),
        class_names=images.class_names,
    )


def leak_figures(images: ImageSet, splits: Splits, part: str, predictions: Predictions) -> dict[str, Any]:
    """Return the figures of a RunResult on pictures that other parts of the data have too."""
    leaked = {images.ids[i] for i in splits.leaked(part)}
    return {"leaked_pictures": len(leaked), "accuracy_without_leaked": accuracy_without(predictions, leaked)}


def write_evaluation(folder: Path, predictions: Predictions, result: RunResult) -> None:
    """Write predictions.csv, mistakes.csv and results.json."""
    write_csv(folder / "predictions.csv", PREDICTION_COLUMNS, prediction_rows(predictions))
    write_csv(folder / "mistakes.csv", PREDICTION_COLUMNS, mistake_rows(predictions))
    write_json(folder / "results.json", result_to_json(result))


def calibration_indices(splits: Splits) -> NDArray[np.int64]:
    """Return the validation pictures that a temperature is fitted on; none where results are measured on them."""
    validation = splits.validation if len(splits.test) else splits.validation[:0]
    return validation[permutation(len(validation), "calibration")[:CALIBRATION_PICTURES]]


def load_run_data(run: Path, config: RunConfig, on_progress: OnProgress) -> tuple[ImageSet, Splits]:
    """Return the data of a run and their parts.

    Raises:
        DataError: they have changed since the run was made.
    """
    images = load_images(config.data, on_progress)
    if images.fingerprint != read_json(run / "run.json")["data"]["fingerprint"]:
        raise DataError(
            f"{config.data.source} is no longer what {run} was trained on{describe_change(run, images)}; "
            f"to measure on the new ones, name them: convscope evaluate {run} {config.data.source}"
        )
    return images, make_splits(images, config.data)


def _write_inside(run: Path, prepared: Prepared, index: int) -> None:
    """Write inside.npz: one picture on its way through the network."""
    images = prepared.images
    subject = Subject(
        network=prepared.network,
        preprocessing=prepared.preprocessing,
        class_names=images.class_names,
        picture=images.images[index],
        device=prepared.device,
    )
    label = images.class_names[images.labels[index]]
    write_panels(run / "inside.npz", inside_panels(subject, picture_id=images.ids[index], label=label))


def _write_thumbnails(run: Path, images: ImageSet, samples: list[str], predictions: Predictions) -> None:
    """Keep small copies of the pictures that the report shows, so that it can be drawn without the data."""
    mistakes = [row[0] for row, _ in zip(mistake_rows(predictions), range(SHOWN_PICTURES), strict=False)]
    index_of = {picture: index for index, picture in enumerate(images.ids)}
    shown = dict.fromkeys([*samples, *predictions.ids[:SHOWN_PICTURES], *mistakes])
    size, gray = min(THUMBNAIL_PX, *images.shape[1:]), images.shape[0] == 1
    pictures = {id_: images.images[index_of[id_]] for id_ in shown}
    if images.shape[1:] != (size, size):
        pictures = {id_: fit_picture(image, Fit(image_size=size, gray=gray)) for id_, image in pictures.items()}
    write_thumbnails(run, pictures)

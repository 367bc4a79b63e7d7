"""The verbs of the command line as functions. They wire the stages together.

import convscope
result = convscope.train("mnist5k", model="lenet5", epochs=5)
print(result.accuracy.value, result.run)
"""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from convscope.budget.costs import count_macs, count_training_flops
from convscope.config import DataConfig, ModelConfig, RunConfig, TrainConfig, config_to_json
from convscope.data import DATASETS, load_images
from convscope.data.batches import Preprocessing, channel_statistics, make_preprocessing, make_resident
from convscope.data.image_set import ImageSet
from convscope.data.intake import fit_picture
from convscope.data.splits import Splits, make_splits
from convscope.device import (
    choose_device,
    configure_threads,
    describe_hardware,
    measure_peak_flops,
    peak_memory_bytes,
)
from convscope.errors import DataError, ResumeMismatch, UsageError, unknown_name
from convscope.evaluation.metrics import compute_metrics, make_predictions
from convscope.evaluation.predict import predict_logits
from convscope.evaluation.records import PREDICTION_COLUMNS, mistake_rows, prediction_rows, result_to_json
from convscope.models import build_model, count_parameters, find_model
from convscope.models.saved import SavedModel, channels_last, load_model, preprocessing_to_json, save_model
from convscope.randomness import derive_seed, permutation
from convscope.recipes import RECIPES
from convscope.report.page import build_report
from convscope.results import OnProgress, Predictions, Progress, RunResult, ignore_progress
from convscope.runs import (
    check_out,
    create_run_folder,
    csv_bytes,
    locked,
    read_config,
    read_csv,
    read_json,
    sha256,
    write_bytes,
    write_csv,
    write_json,
    write_thumbnails,
)
from convscope.training.interrupts import stop_on_signals
from convscope.training.loop import TrainingData
from convscope.training.loop import train as train_loop

SHOWN_PICTURES = 20
"""Samples, first predictions and worst mistakes that a report shows."""
THUMBNAIL_PX = 96


@dataclass(frozen=True)
class _Prepared:
    """A run's data and network, ready to train; `statistics` are mean and deviation of the training part, 0..1."""

    config: RunConfig
    images: ImageSet
    splits: Splits
    statistics: tuple[tuple[float, ...], tuple[float, ...]]
    network: torch.nn.Module
    device: torch.device

    @property
    def preprocessing(self) -> Preprocessing:
        return make_preprocessing(*self.statistics, normalize=self.config.train.normalize)

    @property
    def evaluation_part(self) -> str:
        return "test" if len(self.splits.test) else "validation"


def make_config(source: str, model: str = "auto", **options: Any) -> RunConfig:  # noqa: ANN401
    """Return the configuration for a data set and a model: the model's own defaults, then the options given.

    Args:
        options: fields of DataConfig and TrainConfig by name, for example epochs=5, image_size=64; None is not given.

    Raises:
        UsageError: a name or value cannot be meant.
    """
    spec = find_model(model)
    given = {name: value for name, value in options.items() if value is not None}
    data_fields, train_fields = ({f.name for f in fields(kind)} - {"source"} for kind in (DataConfig, TrainConfig))
    for name in given:
        if name not in data_fields | train_fields:
            raise unknown_name("option", name, data_fields | train_fields)
    data: dict[str, Any] = {name: value for name, value in given.items() if name in data_fields}
    if spec.sized_input:
        data = {"image_size": spec.native_shape[1], "gray": spec.native_shape[0] == 1} | data
    if source not in DATASETS:
        source = str(Path(source).resolve()) if Path(source).exists() else source  # a run is resumed from anywhere
    train_options = dict(spec.train) | {name: value for name, value in given.items() if name in train_fields}
    return RunConfig(
        data=DataConfig(source=source, **data),
        model=ModelConfig(name=model),
        train=TrainConfig(**train_options),
    )


def train(
    data: str,
    *,
    model: str = "auto",
    out: str | Path | None = None,
    report: bool = True,
    on_progress: OnProgress = ignore_progress,
    **options: Any,  # noqa: ANN401
) -> RunResult:
    """Train, evaluate and report on one network; see `make_config` for the options.

    Raises:
        ConvscopeError: see errors.py; nothing half-written stays behind when the data or options are refused.
    """
    return run_config(make_config(data, model, **options), out=out, report=report, on_progress=on_progress)


def recipe(
    name: str,
    *,
    data_dir: str | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    report: bool = True,
    on_progress: OnProgress = ignore_progress,
) -> RunResult:
    """Run a named recipe."""
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    config = RECIPES[name].config()
    config = replace(config, data=replace(config.data, data_dir=data_dir), train=replace(config.train, seed=seed))
    return run_config(config, out=out, report=report, on_progress=on_progress)


def run_config(
    config: RunConfig,
    *,
    out: str | Path | None = None,
    report: bool = True,
    on_progress: OnProgress = ignore_progress,
) -> RunResult:
    """Start the run that a configuration describes and see it to its end."""
    if out is not None:
        check_out(Path(out))
    prepared = _prepare(config, on_progress)
    run = create_run_folder(out, default_name=f"{prepared.images.name}-{config.model.name}")
    with locked(run):
        _write_start(run, prepared)
        return _finish(run, prepared, report=report, resume=False, on_progress=on_progress)


def resume(
    run: str | Path,
    *,
    data: str | None = None,
    model: str | None = None,
    report: bool = True,
    on_progress: OnProgress = ignore_progress,
) -> RunResult:
    """Continue a run from its newest whole checkpoint; the result is bit-identical to a run without interruption.

    Args:
        data, model: what the caller believes the run to be; checked when given.

    Raises:
        ResumeMismatch: the data set, its classes or the model are not those the run was started with.
    """
    run = Path(run)
    config = read_config(run)
    if model is not None and model != config.model.name:
        raise ResumeMismatch(f"{run} trains model {config.model.name!r}, not {model!r}; start a new run for it")
    if data is not None and make_config(data).data.source != config.data.source:
        raise ResumeMismatch(f"{run} trains on {config.data.source!r}, not {data!r}; start a new run for it")
    with locked(run):
        prepared = _prepare(config, on_progress)
        _check_same(run, prepared)
        return _finish(run, prepared, report=report, resume=True, on_progress=on_progress)


def evaluate(
    run: str | Path, data: str | None = None, *, device: str = "auto", on_progress: OnProgress = ignore_progress
) -> RunResult:
    """Measure a finished run's network on the test part of its data, or on another data set.

    With `data` None results.json, predictions.csv and mistakes.csv are written anew; for other data they go to
    RUN/evaluations/NAME. Other data are used whole unless they have a test part of their own, and must have the
    same classes.
    """
    run = Path(run)
    saved, config = load_model(run), read_config(run)
    old = read_json(run / "results.json")
    images, indices, part, folder = _evaluation_data(run, config, saved, data, on_progress)
    chosen = choose_device(device)
    configure_threads(config.train.threads)
    preprocessing = Preprocessing(saved.mean, saved.std)
    predictions = _predict(saved.network.to(chosen), images, indices, preprocessing, chosen)
    known = {} if data is not None else {key: old[key] for key in _FIELDS_OF_TRAINING}
    result = RunResult(
        run=str(run),
        model=saved.name,
        data=images.name,
        seed=config.train.seed,
        part=part,
        metrics=compute_metrics(predictions),
        num_params=old["num_params"],
        **known,
    )
    with locked(run):
        folder.mkdir(parents=True, exist_ok=True)
        _write_evaluation(folder, predictions, result)
    return result


def write_report(run: str | Path) -> Path:
    """Write RUN/report.html anew from what the run recorded; return its path."""
    run = Path(run)
    with locked(run):
        return build_report(run)


# ---------------------------------------------------------------- the stages of a run

_FIELDS_OF_TRAINING = (
    "macs",
    "epochs",
    "best_epoch",
    "train_seconds",
    "peak_memory_bytes",
    "fraction_of_peak_flops",
    "split_sha256",
)


def _prepare(config: RunConfig, on_progress: OnProgress) -> _Prepared:
    device = choose_device(config.train.device)
    configure_threads(config.train.threads)
    images = load_images(config.data, on_progress)
    splits = make_splits(images, config.data)
    if len(splits.test) == len(splits.validation) == 0:
        raise UsageError("nothing is left to evaluate on; give test or validation a share with --split, as in 80/0/20")
    torch.manual_seed(derive_seed(config.train.seed, "weights"))
    network = channels_last(build_model(config.model.name, images.shape, images.num_classes)).to(device)
    statistics = channel_statistics(images.images[splits.train])
    return _Prepared(config, images, splits, statistics, network, device)


def _write_start(run: Path, prepared: _Prepared) -> None:
    images, splits = prepared.images, prepared.splits
    split_csv = csv_bytes(("picture", "label", "split"), splits.rows(images))
    write_bytes(run / "split.csv", split_csv)
    write_csv(run / "skipped.csv", ("file", "reason", "remedy"), ((s.file, s.reason, s.remedy) for s in images.skipped))
    shown = splits.train[permutation(len(splits.train), "samples")[:SHOWN_PICTURES]]
    mean, std = prepared.statistics
    preprocessing = prepared.preprocessing
    write_json(
        run / "run.json",
        {
            "convscope": version("convscope"),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "config": config_to_json(prepared.config),
            "class_names": images.class_names,
            "model": {
                "name": prepared.config.model.name,
                "num_params": count_parameters(prepared.network),
                "macs": count_macs(prepared.network, images.shape),
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


def _check_same(run: Path, prepared: _Prepared) -> None:
    recorded, images = read_json(run / "run.json"), prepared.images
    if recorded["class_names"] != list(images.class_names):
        raise ResumeMismatch(
            f"{run} was started with the classes {', '.join(recorded['class_names'])}; the data now have "
            f"{', '.join(images.class_names)}. Bring the data back as they were, or start a new run"
        )
    if recorded["data"]["fingerprint"] != images.fingerprint:
        raise ResumeMismatch(
            f"{run} was started with other pictures or labels ({recorded['data']['num_images']} pictures then, "
            f"{len(images)} now{_missing_pictures(run, images)}). Bring the data back as they were, or start a new run"
        )


def _missing_pictures(run: Path, images: ImageSet) -> str:
    missing = {row["picture"] for row in read_csv(run / "split.csv")} - set(images.ids)
    return f"; missing: {', '.join(sorted(missing)[:3])}" if missing else ""


def _finish(run: Path, prepared: _Prepared, *, report: bool, resume: bool, on_progress: OnProgress) -> RunResult:
    config, images, splits, network = prepared.config, prepared.images, prepared.splits, prepared.network
    data = TrainingData(
        train=make_resident(images, splits.train, prepared.device),
        validation=make_resident(images, splits.validation, prepared.device) if len(splits.validation) else None,
        preprocessing=prepared.preprocessing,
        ids=tuple(images.ids[i] for i in splits.train),
    )
    with stop_on_signals() as stop_requested:
        trained = train_loop(
            network, data, config.train, run, on_progress=on_progress, stop_requested=stop_requested, resume=resume
        )
    peak_memory = peak_memory_bytes(prepared.device)
    part = prepared.evaluation_part
    on_progress(Progress(f"evaluating on the {part} part", 0, None))
    indices = getattr(splits, part)
    predictions = _predict(network, images, indices, prepared.preprocessing, prepared.device)
    recorded = read_json(run / "run.json")
    macs = recorded["model"]["macs"]
    examples = len(trained.history) * len(splits.train)
    flops = examples * count_training_flops(network, images.shape)
    flops += len(trained.history) * len(splits.validation) * 2 * macs
    result = RunResult(
        run=str(run),
        model=config.model.name,
        data=images.name,
        seed=config.train.seed,
        part=part,
        metrics=compute_metrics(predictions),
        num_params=recorded["model"]["num_params"],
        macs=macs,
        epochs=len(trained.history),
        best_epoch=trained.best_epoch,
        train_seconds=trained.train_seconds,
        peak_memory_bytes=peak_memory,
        fraction_of_peak_flops=flops / trained.train_seconds / measure_peak_flops(prepared.device),
        split_sha256=recorded["split_sha256"],
    )
    save_model(
        run,
        SavedModel(
            network=network,
            name=config.model.name,
            input_shape=images.shape,
            class_names=images.class_names,
            mean=prepared.preprocessing.mean,
            std=prepared.preprocessing.std,
        ),
    )
    _write_evaluation(run, predictions, result)
    _write_thumbnails(run, images, recorded["data"]["samples"], predictions)
    if report:
        on_progress(Progress("writing the report", 0, None))
        build_report(run)
    return result


# ---------------------------------------------------------------- evaluation


def _evaluation_data(
    run: Path, config: RunConfig, saved: SavedModel, data: str | None, on_progress: OnProgress
) -> tuple[ImageSet, NDArray[np.int64], str, Path]:
    """Return pictures, which of them to use, the name of that part and the folder for the results."""
    if data is None:
        images = load_images(config.data, on_progress)
        if images.fingerprint != read_json(run / "run.json")["data"]["fingerprint"]:
            raise DataError(
                f"the data of {run} ({config.data.source}) have changed since it was trained; to measure on the new "
                f"ones, name them: convscope evaluate {run} {config.data.source}"
            )
        splits = make_splits(images, config.data)
        part = "test" if len(splits.test) else "validation"
        return images, getattr(splits, part), part, run
    channels, height, _ = saved.input_shape
    images = load_images(
        make_config(data, image_size=height, gray=channels == 1, data_dir=config.data.data_dir).data, on_progress
    )
    if images.shape != saved.input_shape:
        raise DataError(f"{images.name} has pictures of {images.shape}, the network takes {saved.input_shape}")
    if images.class_names != saved.class_names:
        raise DataError(
            f"{images.name} has the classes {', '.join(images.class_names)}; the network knows "
            f"{', '.join(saved.class_names)}. Evaluation needs the same classes under the same names"
        )
    own_test = np.flatnonzero(np.array(images.parts) == "test")
    indices = own_test if len(own_test) else np.arange(len(images))
    folder = run / "evaluations" / images.name.replace("/", "-")
    return images, indices, "test" if len(own_test) else "all", folder


def _predict(
    network: torch.nn.Module,
    images: ImageSet,
    indices: NDArray[np.int64],
    preprocessing: Preprocessing,
    device: torch.device,
) -> Predictions:
    logits = predict_logits(network, make_resident(images, indices, device), preprocessing)
    return make_predictions(
        logits=logits.cpu().numpy(),
        labels=images.labels[indices],
        ids=tuple(images.ids[i] for i in indices),
        class_names=images.class_names,
    )


def _write_evaluation(folder: Path, predictions: Predictions, result: RunResult) -> None:
    write_csv(folder / "predictions.csv", PREDICTION_COLUMNS, prediction_rows(predictions))
    write_csv(folder / "mistakes.csv", PREDICTION_COLUMNS, mistake_rows(predictions))
    write_json(folder / "results.json", result_to_json(result))


def _write_thumbnails(run: Path, images: ImageSet, samples: list[str], predictions: Predictions) -> None:
    """Keep small copies of the pictures that the report shows, so that it can be drawn without the data."""
    mistakes = [row[0] for row, _ in zip(mistake_rows(predictions), range(SHOWN_PICTURES), strict=False)]
    index_of = {picture: index for index, picture in enumerate(images.ids)}
    shown = dict.fromkeys([*samples, *predictions.ids[:SHOWN_PICTURES], *mistakes])
    size, gray = min(THUMBNAIL_PX, *images.shape[1:]), images.shape[0] == 1
    pictures = {id_: images.images[index_of[id_]] for id_ in shown}
    if images.shape[1:] != (size, size):
        pictures = {id_: fit_picture(image, image_size=size, gray=gray) for id_, image in pictures.items()}
    write_thumbnails(run, pictures)

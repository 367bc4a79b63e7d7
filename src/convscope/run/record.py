"""The records of a run besides its checkpoints: how it was started and what was measured."""

import hashlib
import platform
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convscope import __version__
from convscope.config import DataConfig, RunConfig, config_to_json
from convscope.data.dataset import ImageSet
from convscope.data.decode.resize import Resizing, resize_image
from convscope.data.splits import Splits
from convscope.device import describe_hardware
from convscope.errors import ResumeMismatch
from convscope.evaluation.metrics import accuracy_without
from convscope.evaluation.records import PREDICTION_COLUMNS, mistake_rows, prediction_rows, result_to_json
from convscope.inspection.augmented_copies import augmentation_grid
from convscope.inspection.inside import inside_panels
from convscope.inspection.subject import Subject
from convscope.memory.plan import Plan
from convscope.models import count_parameters
from convscope.models.saved import preprocessing_to_json
from convscope.models.zoo.pretrained import describe_weights
from convscope.results.memory import READING
from convscope.results.run import Accuracy, Predictions, RunResult
from convscope.run.configure import command_of
from convscope.run.data_diff import describe_change, write_digests
from convscope.run.prepare import Prepared
from convscope.seeds import permutation
from convscope.storage.files import csv_bytes, read_json, write_bytes, write_csv, write_json
from convscope.storage.panels import write_panels
from convscope.storage.run_folder import write_thumbnails
from convscope.storage.run_start import RUN_SCHEMA, read_start
from convscope.training.loop import TrainResult

SHOWN_IMAGES = 20
"""Number of samples, of predictions, of first and of worst mistakes in a report."""
THUMBNAIL_PX = 128


def write_start(run: Path, prepared: Prepared) -> None:
    """Write the records before training into a new run folder: run.json, split.csv, skipped.csv and others."""
    images, splits = prepared.images, prepared.splits
    split_csv = csv_bytes(("image", "label", "split"), splits.rows(images))
    write_bytes(run / "split.csv", split_csv)
    write_digests(run, images)
    write_skipped(run, images)
    shown = splits.train[permutation(len(splits.train), "samples")[:SHOWN_IMAGES]]
    if prepared.config.train.augment:
        write_panels(run / "augmentation.npz", (augmentation_grid(images, splits.train, prepared.config),))
    mean, std = prepared.statistics
    preprocessing = prepared.preprocessing
    write_json(
        run / "run.json",
        {
            "schema": RUN_SCHEMA,
            "convscope": __version__,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": command_of(prepared.config),
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
                "notes": [*images.notes, *splits.notes, *_per_class_notes(images, prepared.config.data)],
                "class_counts": {
                    split: np.bincount(images.labels[indices], minlength=images.num_classes).tolist()
                    for split, indices in splits.items()
                },
                "mean": mean,
                "std": std,
                "samples": [images.ids[i] for i in shown],
            },
            "split_sha256": hashlib.sha256(split_csv).hexdigest(),
            "versions": {"python": platform.python_version()}
            | {name: version(name) for name in ("torch", "numpy", "pillow", "safetensors")},
            "hardware": asdict(describe_hardware(prepared.device)),
        },
    )


def _per_class_notes(images: ImageSet, config: DataConfig) -> list[str]:
    """Return what the limit on the images of a class was a limit on."""
    splits = [split for split in dict.fromkeys(images.source_splits) if split]
    if config.per_class is None:
        return []
    of = f"in each split of the source ({', '.join(splits)})" if splits else "in all, before they were divided"
    return [f"per_class {config.per_class}: at most this many images of each class {of}"]


def write_skipped(folder: Path, images: ImageSet) -> None:
    """Write skipped.csv: the files that could not be used, and why."""
    rows = ((item.file, item.reason, item.remedy) for item in images.skipped)
    write_csv(folder / "skipped.csv", ("file", "reason", "remedy"), rows)


def note_resume(run: Path, prepared: Prepared) -> str:
    """Return what differs between this machine and the one a run was started on, and record it; "" if nothing does."""
    recorded = read_start(run)
    before = recorded["hardware"] | {"torch": recorded["versions"]["torch"]}
    now = asdict(describe_hardware(prepared.device)) | {"torch": version("torch")}
    changed = [
        f"{name} {now[name]!r} instead of {before[name]!r}"
        for name in ("device", "name", "capability", "torch")
        if before.get(name) is not None and before[name] != now[name]
    ]
    if not changed:
        return ""
    note = f"resumed on another machine ({'; '.join(changed)}): no longer bit-identical to a run that never stopped"
    write_json(run / "run.json", recorded | {"resumed": list(dict.fromkeys([*recorded.get("resumed", []), note]))})
    return note


def check_same(run: Path, prepared: Prepared) -> None:
    """Raise a ResumeMismatch that names the difference if data or weights are not those the run was started with."""
    recorded, images = read_start(run), prepared.images
    if recorded["class_names"] != list(images.class_names):
        raise ResumeMismatch(
            f"{run} was started with the classes {', '.join(recorded['class_names'])}; the data now has "
            f"{', '.join(images.class_names)}. Restore the data, or start a new run"
        )
    if recorded["data"]["fingerprint"] != images.fingerprint:
        raise ResumeMismatch(
            f"{run} was started with other images or labels ({recorded['data']['num_images']} images then, "
            f"{len(images)} now{describe_change(run, images)}). Restore the data, or start a new run"
        )
    weights = describe_weights(prepared.config.model)
    if recorded["model"].get("weights") != weights:
        raise ResumeMismatch(
            f"{run} was started from other trained weights ({recorded['model'].get('weights')} then, {weights} now). "
            "Restore them, or start a new run"
        )


def without_leaked(
    images: ImageSet, splits: Splits, split: str, predictions: Predictions
) -> tuple[int, Accuracy | None]:
    """Return the number of images that a split shares with other splits, and the accuracy without them."""
    leaked = {images.ids[i] for i in splits.leaked(split)}
    return len(leaked), accuracy_without(predictions, leaked)


def write_evaluation(folder: Path, predictions: Predictions, result: RunResult) -> None:
    """Write predictions.csv, mistakes.csv and results.json."""
    write_csv(folder / "predictions.csv", PREDICTION_COLUMNS, prediction_rows(predictions))
    write_csv(folder / "mistakes.csv", PREDICTION_COLUMNS, mistake_rows(predictions))
    write_json(folder / "results.json", result_to_json(result))


def write_inside(run: Path, prepared: Prepared, index: int) -> None:
    """Write inside.npz: one image on its way through the network."""
    images = prepared.images
    subject = Subject(
        network=prepared.network,
        preprocessing=prepared.preprocessing,
        class_names=images.class_names,
        image=images.images[index],
        device=prepared.device,
    )
    label = images.class_names[images.labels[index]]
    write_panels(run / "inside.npz", inside_panels(subject, image_id=images.ids[index], label=label))


def write_shown_thumbnails(
    run: Path, images: ImageSet, samples: list[str], predictions: Predictions, order: NDArray[np.int64]
) -> None:
    """Write small copies of the images in the report, so that it can be drawn without the data.

    Args:
        order: that of the predictions in the report, see `shown_order`.
    """
    worst = [row[0] for row, _ in zip(mistake_rows(predictions), range(SHOWN_IMAGES), strict=False)]
    wrong = order[predictions.predicted[order] != predictions.labels[order]]
    first = [predictions.ids[i] for i in (*order[:SHOWN_IMAGES], *wrong[:SHOWN_IMAGES])]
    index_of = {name: index for index, name in enumerate(images.ids)}
    shown = dict.fromkeys([*samples, *first, *worst])
    size, gray = min(THUMBNAIL_PX, *images.shape[1:]), images.shape[0] == 1
    thumbnails = {id_: images.images[index_of[id_]] for id_ in shown}
    if images.shape[1:] != (size, size):
        thumbnails = {
            id_: resize_image(image, Resizing(image_size=size, gray=gray)) for id_, image in thumbnails.items()
        }
    write_thumbnails(run, thumbnails)


# ---------------------------------------------------------------- the plan

PLAN_FILE = "plan.json"


def write_plan(
    run: Path, plan: Plan, measured: Mapping[str, int] | None = None, trained: TrainResult | None = None
) -> None:
    """Write RUN/plan.json.

    Args:
        measured: stage -> peak memory of the process up to its end, in bytes; None before training.
        trained: how training went; None before it.
    """
    measured = {READING: plan.stages[READING], **(measured or {})}  # reading ended before the plan
    predicted = {stage: num_bytes for stage, num_bytes in plan.stages.items() if stage != READING}
    write_json(
        run / PLAN_FILE,
        {
            "limit_bytes": plan.limit_bytes,
            "why": plan.why,
            "batch_size": plan.batch_size,
            "micro_batches": plan.compute.micro_batches,
            "checkpoint_activations": plan.compute.checkpoint_activations,
            "evaluation_batch_size": plan.compute.evaluation_batch_size,
            "model_file": plan.model_file,
            "keeps_freed_memory": plan.keeps_freed_memory,
            "stages": [
                {"stage": stage, "predicted_bytes": predicted.get(stage), "measured_bytes": measured.get(stage)}
                for stage in dict.fromkeys((*plan.stages, *measured))
            ],
            "peak": {
                "predicted_bytes": plan.peak_bytes,
                "measured_bytes": None if trained is None else max(measured.values()),
            },
            "seconds": {
                "predicted": None if trained is None else trained.expected_seconds,
                "measured": None if trained is None else trained.train_seconds,
            },
        },
    )


def read_plan(run: Path, config: RunConfig) -> Plan:
    """Return the plan that a run was started with, from plan.json and the configuration.

    Raises:
        RunError: plan.json cannot be read.
    """
    tree = read_json(run / PLAN_FILE)
    stages = {
        entry["stage"]: entry["measured_bytes"] if entry["stage"] == READING else entry["predicted_bytes"]
        for entry in tree["stages"]
    }
    return Plan(
        limit_bytes=tree["limit_bytes"],
        batch_size=config.train.batch_size,
        compute=replace(config.compute, micro_batches=tree["micro_batches"]),
        stages={stage: num_bytes for stage, num_bytes in stages.items() if num_bytes is not None},
        model_file=tree["model_file"],
        keeps_freed_memory=tree["keeps_freed_memory"],
        why=tree["why"],
    )

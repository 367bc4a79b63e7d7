"""Data that a finished run is evaluated on and that are not its own: read as its own were, and told apart from them."""

from dataclasses import replace
from pathlib import Path
from unicodedata import normalize

import numpy as np
from numpy.typing import NDArray

from convscope.config import RunConfig
from convscope.data.dataset import ImageSet
from convscope.data.duplicates import LEAST_PX, find_known
from convscope.data.load import load_images
from convscope.data.names import printable
from convscope.errors import ConvscopeError, DataError, NoLabels, command
from convscope.models.saved import SavedModel
from convscope.progress import OnProgress, Progress, ignore_progress
from convscope.results.prediction import Skipped
from convscope.run.configure import make_config
from convscope.run.own_data import load_run_data, recorded_digests
from convscope.storage.files import file_name, read_json

SHOWN_NAMES = 10
"""Classes that an error or note names."""


def load_other_data(
    run: Path,
    config: RunConfig,
    saved: SavedModel,
    data: str,
    on_progress: OnProgress,
    *,
    max_pixels: int | None = None,
    allow_truncated: bool | None = None,
) -> ImageSet:
    """Return images at the input size of a network, labelled with its classes; images of other classes are skipped.

    Args:
        max_pixels, allow_truncated: which files are accepted; None: as when the run was trained.

    Raises:
        DataError: there is no image of a class that the network knows.
    """
    channels, height, _ = saved.input_shape
    own = config.data
    try:
        images = load_images(
            make_config(
                data,
                image_size=height,
                gray=channels == 1,
                data_dir=own.data_dir,
                resize=own.resize,
                crop_fraction=own.crop_fraction,
                interpolation=own.interpolation,
                max_pixels=max_pixels or own.max_pixels,
                allow_truncated=own.allow_truncated if allow_truncated is None else allow_truncated,
            ).data,
            on_progress,
            to_train=False,
        )
    except NoLabels as error:
        advice = f"Images without labels are classified, not evaluated: {command('predict', run, data)}"
        raise NoLabels(f"{error}. {advice}") from error
    if images.shape != saved.input_shape:
        raise DataError(f"{images.name} has images of {images.shape}, the network takes {saved.input_shape}")
    return _with_classes_of(saved, images)


def _with_classes_of(saved: SavedModel, images: ImageSet) -> ImageSet:
    """Return the images of classes that a network knows, labelled as it labels them, and what was left out."""
    number_of = {normalize("NFC", name): number for number, name in enumerate(saved.class_names)}
    numbers = [number_of.get(normalize("NFC", name), -1) for name in images.class_names]  # a Mac writes accents as NFD
    labels = np.array(numbers)[images.labels]
    unknown = [name for name, number in zip(images.class_names, numbers, strict=True) if number < 0]
    if (labels < 0).all():
        raise DataError(
            f"{images.name} has the classes {_listed(images.class_names)}; the network knows "
            f"{_listed(saved.class_names)}. Evaluation needs the same classes under the same names"
        )
    remedy = f"the network knows {_listed(saved.class_names)}"
    skipped = (
        Skipped(images.ids[i], f"the network has no class {printable(images.class_names[images.labels[i]])}", remedy)
        for i in np.flatnonzero(labels < 0)
    )
    known = images.take(np.flatnonzero(labels >= 0)) if unknown else images
    return replace(
        known, labels=labels[labels >= 0], class_names=saved.class_names, skipped=(*images.skipped, *skipped)
    )


def class_notes(images: ImageSet, indices: NDArray[np.int64]) -> list[str]:
    """Return a note if classes are lacking among the chosen images."""
    counts = np.bincount(images.labels[indices], minlength=images.num_classes)
    absent = [name for name, count in zip(images.class_names, counts, strict=True) if not count]
    if not absent:
        return []
    there = images.num_classes - len(absent)
    return [f"measured on {there} of {images.num_classes} classes: there is no image of {_listed(absent)}"]


def find_trained_on(
    run: Path, config: RunConfig, images: ImageSet, indices: NDArray[np.int64], on_progress: OnProgress
) -> tuple[NDArray[np.bool_], list[str]]:
    """Return which of the chosen images the run was trained on or validated with, bool [N], and notes on them.

    Equal pixels at the network's input size are known by the digests that a run records, wherever the file lies and
    whatever it is called. Near duplicates are found where the run's own data are still there.
    """
    recorded, digests = recorded_digests(run), images.digests[indices]
    used = [recorded[split] for split in ("train", "validation") if split in recorded]
    found = np.isin(digests, np.concatenate(used)) if used else np.zeros(len(indices), bool)
    if found.any() and np.isin(digests, np.concatenate(list(recorded.values()))).all():
        its_test = f"; its own test split: {command('evaluate', run)}" if "test" in recorded else ""
        return found, [f"all of these are images that the run has too{its_test}"]
    if min(images.shape[1:]) < LEAST_PX:
        return found, []
    on_progress(Progress("looking for training images among them", 0, None))
    try:
        own, splits = load_run_data(run, config, ignore_progress, verb="evaluate")
    except ConvscopeError:
        return found, ["training images saved again cannot be recognized: the run's own data are not there any more"]
    before = np.concatenate([splits.train, splits.validation])
    return found | find_known(images.images[indices], digests, own.images[before], own.digests[before]), []


def evaluation_folder(run: Path, images: ImageSet, source: str) -> Path:
    """Return the folder for the results on other data: named after them, with a number where others have the name."""
    stem, number = file_name(images.name), 1
    while True:
        folder = run / "evaluations" / (stem if number == 1 else f"{stem}-{number}")
        if not (folder / "results.json").exists() or read_json(folder / "results.json").get("source") == source:
            return folder
        number += 1


def _listed(names: tuple[str, ...] | list[str]) -> str:
    more = len(names) - SHOWN_NAMES
    return ", ".join(names[:SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")

"""The data of a run, found again: where they were, or in a new place, and the same images as then."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convscope.config import RunConfig
from convscope.data.dataset import ImageSet
from convscope.data.load import DATASETS, load_images
from convscope.data.splits import Splits, recorded_splits
from convscope.errors import DataError, ResumeMismatch, command
from convscope.progress import OnProgress
from convscope.run.configure import data_source
from convscope.run.data_diff import describe_change, read_digests
from convscope.storage.files import read_csv
from convscope.storage.run_start import read_start


def load_run_data(
    run: Path, config: RunConfig, on_progress: OnProgress, *, verb: str, moved_to: str | Path | None = None
) -> tuple[ImageSet, Splits]:
    """Return the images of a run and their splits.

    Args:
        verb: the command that needs them, for the advice in an error.
        moved_to: where they are now; see `move_data`.

    Raises:
        DataError: they are not there any more, or have changed since the run was made.
    """
    if moved_to is not None:
        config = move_data(run, config, moved_to)
    check_there(run, config, verb)
    images = as_recorded(run, load_images(config.data, on_progress))
    if images.fingerprint != read_start(run)["data"]["fingerprint"]:
        place = config.data.data_dir if moved_to is not None and config.data.data_dir else config.data.source
        what = f"{place} has changed since" if moved_to is None else f"{place} does not hold the images that"
        raise DataError(
            f"{what} {run} was trained on{' it' if moved_to is None else ''}{describe_change(run, images)}; "
            f"to evaluate on the new images, name them: {command('evaluate', run, place)}"
        )
    return images, read_splits(run, images, config)


def move_data(run: Path, config: RunConfig, place: str | Path) -> RunConfig:
    """Return the configuration of a run with its data in another place: for a named data set, its folder of files.

    Raises:
        ResumeMismatch: the place is the name of another data set.
    """
    source = config.data.source
    if str(place) == source:
        return config
    if str(place) in DATASETS and not Path(place).exists():
        raise ResumeMismatch(f"{run} trains on {source!r}, not {str(place)!r}; start a new run for it")
    if source in DATASETS:
        return replace(config, data=replace(config.data, data_dir=str(Path(place).resolve())))
    return replace(config, data=replace(config.data, source=data_source(str(place))))


def check_there(run: Path, config: RunConfig, *verb: str) -> None:
    """Raise a DataError that names the command with the new place, if the data of a run are not there any more."""
    place = config.data.data_dir if config.data.source in DATASETS else config.data.source
    if place is not None and not Path(place).exists():
        moved = command(*verb, run, "--data", "PATH")
        raise DataError(f"the data of {run} are not at {place} any more; name where they are now: {moved}")


def as_recorded(run: Path, images: ImageSet) -> ImageSet:
    """Return the images of a run with the ids it knows them by, where only these differ: a folder became an archive.

    The classes have the order that they had then.
    """
    images = images.with_class_order(read_start(run)["class_names"])
    if images.fingerprint == read_start(run)["data"]["fingerprint"]:
        return images
    ids = tuple(row["image"] for row in read_csv(run / "split.csv"))
    renamed = replace(images, ids=ids) if len(ids) == len(images) else images
    return renamed if renamed.fingerprint == read_start(run)["data"]["fingerprint"] else images


def read_splits(run: Path, images: ImageSet, config: RunConfig) -> Splits:
    """Return the splits that a run recorded; other images than its own are split again."""
    split_of = {row["image"]: row["split"] for row in read_csv(run / "split.csv")}
    return recorded_splits(images, split_of, config.data)


def recorded_digests(run: Path) -> dict[str, NDArray[np.uint64]]:
    """Return the digests of the images of each split of a run, uint64 each; empty if it recorded none."""
    rows = read_csv(run / "split.csv")
    digests = read_digests(run, len(rows))
    if digests is None:
        return {}
    splits = np.array([row["split"] for row in rows])
    return {split: digests[splits == split] for split in dict.fromkeys(splits.tolist())}

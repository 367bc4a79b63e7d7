"""Pictures with labels: sources, their table, and how they are cut into parts and batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

import numpy as np

from convscope.config import DataConfig
from convscope.data import archive, csv_file, folder
from convscope.data.image_set import ImageSet
from convscope.data.intake import fit_of, fit_picture
from convscope.errors import UsageError, unknown_name
from convscope.progress import OnProgress, ignore_progress
from convscope.randomness import permutation

Load = Callable[[DataConfig, OnProgress], ImageSet]


@dataclass(frozen=True)
class Source:
    """A data set that is known by name.

    Args:
        needs: where its files come from, in words.
    """

    description: str
    needs: str
    load: Load


def _in(module: str, function: str) -> Load:
    """Return a loader whose module is imported when it is called: who only decodes pictures needs none of them."""

    def load(config: DataConfig, on_progress: OnProgress) -> ImageSet:
        images: ImageSet = getattr(import_module(f"convscope.data.{module}"), function)(config, on_progress)
        return images

    return load


DATASETS: dict[str, Source] = {
    "digits": Source("1,797 handwritten digits, 8x8 gray", "nothing: embedded", _in("digits", "load_digits")),
    "mnist5k": Source(
        "5,000 MNIST digits, 28x28 gray; 1,000 are its test part", "nothing: embedded", _in("mnist5k", "load_mnist5k")
    ),
    "mnist": Source(
        "70,000 handwritten digits, 28x28 gray",
        "IDX files in --data-dir, or a download of 12 MB",
        _in("idx", "load_mnist"),
    ),
    "fashion-mnist": Source(
        "70,000 pieces of clothing, 28x28 gray",
        "IDX files in --data-dir, Debian's package dataset-fashion-mnist, or a download of 30 MB",
        _in("idx", "load_fashion_mnist"),
    ),
    "cifar10": Source(
        "60,000 photos of ten classes, 32x32 RGB",
        "the python or binary batches in --data-dir, or a download of 163 MB",
        _in("cifar", "load_cifar10"),
    ),
}


def load_images(config: DataConfig, on_progress: OnProgress = ignore_progress) -> ImageSet:
    """Return the pictures of a named data set, a folder, an archive or a CSV, at the configured size.

    Raises:
        UsageError: the name is unknown and no such folder or file exists.
        DataError: the files are missing, broken or hold nothing usable.
    """
    path = Path(config.source)
    if config.source in DATASETS:
        return _fit(_limit(DATASETS[config.source].load(config, on_progress), config), config)
    if path.is_dir():
        images = folder.load_folder(config, on_progress)
    elif path.is_file() and csv_file.is_csv(path):
        images = csv_file.load_csv(config, on_progress)
    elif path.is_file():
        images = archive.load_archive(config, on_progress)
    elif path.suffix or len(path.parts) > 1:
        raise UsageError(
            f"no folder, archive or CSV {config.source!r}; see `convscope data list` for data sets by name"
        )
    else:
        raise unknown_name("data set or folder", config.source, DATASETS)
    return _limit(images, config)


def _fit(images: ImageSet, config: DataConfig) -> ImageSet:
    """Bring the pictures of a named data set to the configured size and number of channels."""
    channels, height, width = images.shape
    size = config.image_size or min(height, width)
    fit = replace(fit_of(config), image_size=size, gray=config.gray or channels == 1)
    if (height, width) == (size, size) and fit.crop_fraction == 1 and not (config.gray and channels == 3):
        return images
    fitted = [fit_picture(picture, fit) for picture in images.images]
    return replace(images, images=np.stack(fitted))


def _limit(images: ImageSet, config: DataConfig) -> ImageSet:
    """Keep at most `per_class` pictures of each class in each part of the source, chosen at random."""
    if config.per_class is None:
        return images
    chosen = []
    parts = np.array(images.parts)
    for part in sorted(set(images.parts)):
        for label in range(images.num_classes):
            members = np.flatnonzero((parts == part) & (images.labels == label))
            order = permutation(len(members), config.split_seed, "per-class", part, label)
            chosen.append(members[order[: config.per_class]])
    return images.take(np.sort(np.concatenate(chosen)))

"""The table of named data sets, and loading of a named or the user's own data set."""

from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

import numpy as np

from convscope.config import DataConfig
from convscope.data.dataset import ImageSet
from convscope.data.decode.cache import load_cache
from convscope.data.decode.files import Listing
from convscope.data.decode.resize import resize_image, resizing_of
from convscope.data.names import is_written, missing_path
from convscope.data.sources.build import Limit, build_dataset
from convscope.data.sources.image_files import open_image_files
from convscope.errors import UsageError, command, unknown_name
from convscope.progress import OnProgress, ignore_progress
from convscope.seeds import permutation


@dataclass(frozen=True)
class Source:
    """A data set that is known by name: "module.function" in `convscope.data.sources` loads it, imported only then."""

    description: str
    needs: str
    loader: str

    def load(self, config: DataConfig, on_progress: OnProgress) -> ImageSet:
        """Return the images in their own size."""
        module, _, function = self.loader.partition(".")
        images: ImageSet = getattr(import_module(f"convscope.data.sources.{module}"), function)(config, on_progress)
        return images


DATASETS: dict[str, Source] = {
    "digits": Source("1,797 handwritten digits, 8x8 gray", "nothing: embedded", "embedded.load_digits"),
    "mnist5k": Source(
        "5,000 MNIST digits, 28x28 gray; 1,000 are its test split", "nothing: embedded", "embedded.load_mnist5k"
    ),
    "mnist": Source(
        "70,000 handwritten digits, 28x28 gray", "IDX files in --data-dir, or a download of 12 MB", "idx.load_mnist"
    ),
    "fashion-mnist": Source(
        "70,000 pieces of clothing, 28x28 gray",
        "IDX files in --data-dir, Debian's package dataset-fashion-mnist, or a download of 30 MB",
        "idx.load_fashion_mnist",
    ),
    "cifar10": Source(
        "60,000 photos of ten classes, 32x32 RGB",
        "the python or binary batches in --data-dir, or a download of 163 MB",
        "cifar.load_cifar10",
    ),
}


def load_images(
    config: DataConfig,
    on_progress: OnProgress = ignore_progress,
    *,
    to_train: bool = True,
    limit: Limit | None = None,
) -> ImageSet:
    """Return the images of a named data set, a folder, an archive or a CSV, at the configured size.

    Args:
        to_train: refuse data that no classifier can be trained on, as they have one class or an empty one.
        limit: of the memory in which the files of a folder, archive or CSV are decoded.

    Raises:
        UsageError: the name is unknown and no such folder or file exists, or convscope wrote that folder.
        NoLabels: there are images, but none of a class.
        DataError: the files are missing, broken or hold nothing usable.
    """
    if config.source in DATASETS:
        images = _resize(_limit(DATASETS[config.source].load(config, on_progress), config), config)
        return replace(images, notes=(*images.notes, *same_name_notes(config.source)))
    path, cache = existing_path(config.source), load_cache(config)
    with open_image_files(path, Listing(), cache) as files:
        return build_dataset(files, config, cache, on_progress, to_train=to_train, limit=limit)


def same_name_notes(source: str) -> list[str]:
    """Return a note on a folder or file here that has the name of a data set, and so is not used."""
    if not Path(source).exists():
        return []
    return [f"{source} is the data set of this name, not the folder or file {source} here; that one is ./{source}"]


def existing_path(source: str) -> Path:
    """Return the path of a folder, archive or CSV; raises UsageError if there is none, or if convscope wrote it."""
    path = Path(source)
    names: list[str] = []
    with suppress(OSError):  # whoever reads the folder says why it cannot be read
        names = [each.name for each in path.iterdir()]
    if is_written(names):
        further = f"; to go on with the run: {command('train', '--resume', source)}" * (path / "run.json").is_file()
        raise UsageError(f"{source} is a folder that convscope wrote, not data; give the folder of images{further}")
    if path.is_dir() or path.is_file():
        return path
    if path.suffix or len(path.parts) > 1:
        listed = "see `convscope data list` for data sets by name"
        raise UsageError(missing_path(source, "folder, archive or CSV", listed))
    raise unknown_name("data set or folder", source, DATASETS)


def _resize(images: ImageSet, config: DataConfig) -> ImageSet:
    """Bring the images of a named data set to the configured size and number of channels."""
    channels, height, width = images.shape
    size = config.image_size or min(height, width)
    resizing = replace(resizing_of(config), image_size=size, gray=config.gray or channels == 1)
    if (height, width) == (size, size) and resizing.crop_fraction == 1 and not (config.gray and channels == 3):
        return images
    return replace(images, images=np.stack([resize_image(image, resizing) for image in images.images]))


def _limit(images: ImageSet, config: DataConfig) -> ImageSet:
    """Keep at most `per_class` images of each class in each split of the source, chosen at random."""
    if config.per_class is None:
        return images
    chosen = []
    splits = np.array(images.source_splits)
    for split in sorted(set(images.source_splits)):
        for label in range(images.num_classes):
            members = np.flatnonzero((splits == split) & (images.labels == label))
            order = permutation(len(members), config.split_seed, "per-class", split, label)
            chosen.append(members[order[: config.per_class]])
    return images.take(np.sort(np.concatenate(chosen)))

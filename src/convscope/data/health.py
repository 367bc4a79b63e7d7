"""How healthy a data set is: every image is checked once, by the rules of training; problems are reported only."""

import hashlib
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convscope.config import DataConfig
from convscope.data.decode.decode import map_images
from convscope.data.decode.files import Listing
from convscope.data.decode.pillow import DecodedImage
from convscope.data.decode.resize import to_pillow
from convscope.data.duplicates import (
    LEAST_PX,
    Duplicates,
    Floats,
    equal_groups,
    group_duplicates,
    members_of,
    signature_of,
)
from convscope.data.load import DATASETS, existing_path, same_name_notes
from convscope.data.names import printable
from convscope.data.sources.image_files import ImageFiles, open_image_files
from convscope.data.sources.labels import check_classes, natural_order
from convscope.errors import DataError
from convscope.progress import OnProgress, Progress, ignore_progress
from convscope.results.prediction import Skipped

SHARPNESS_PX = 256
"""Longer side at which sharpness is measured: an image sharp at this size is sharp for a network that sees 224 px."""
THUMBNAIL_PX = 128
PROGRESS_STEP = 64


@dataclass(frozen=True)
class ImageStats:
    """What is measured on one image.

    Args:
        digest: hash of its decoded pixels and its size.
        brightness: mean luma (ITU-R 601), 0 black to 1 white.
        sharpness: standard deviation of the Laplacian divided by that of the luma, at SHARPNESS_PX: near 0 is blurred,
            about 1 is full of detail; None for a blank image or one below 3 px.
        signature: see `duplicates.signature_of`; None below LEAST_PX.
        thumbnail: JPEG or PNG of at most THUMBNAIL_PX.
    """

    height: int
    width: int
    digest: bytes
    brightness: float
    sharpness: float | None
    signature: Floats | None
    thumbnail: bytes
    format: str = ""
    mode: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class CheckedImage:
    """An image that training would use: its id, class, the split its source assigns ("": none), and measurements."""

    id: str
    label: str
    split: str
    stats: ImageStats


@dataclass(frozen=True)
class Health:
    """What is known about a data set before training; `problem` says why training would refuse it, "" if it would not.

    Classes without a usable image are among the class names.
    """

    name: str
    images: tuple[CheckedImage, ...]
    skipped: tuple[Skipped, ...]
    ignored: int
    class_names: tuple[str, ...]
    duplicates: Duplicates
    notes: tuple[str, ...]
    problem: str = ""

    @property
    def found(self) -> int:
        """Return the number of files that could have been images."""
        return len(self.images) + len(self.skipped)

    def class_counts(self) -> dict[str, dict[str, int]]:
        """Return class -> split -> number of images."""
        counted = Counter((each.label, each.split) for each in self.images)
        splits = sorted({each.split for each in self.images})
        return {name: {split: counted[name, split] for split in splits} for name in self.class_names}

    def equal_groups(self) -> list[NDArray[np.int64]]:
        """Return the groups of images with exactly the same pixels."""
        return members_of(self.duplicates.equal)

    def conflicts(self) -> list[NDArray[np.int64]]:
        """Return the groups of duplicates and near duplicates that are in more than one class."""
        return [group for group in members_of(self.duplicates.groups) if self._num_values(group, "label") > 1]

    def leaks(self) -> list[NDArray[np.int64]]:
        """Return the groups of duplicates and near duplicates that the source itself puts into more than one split."""
        return [group for group in members_of(self.duplicates.groups) if self._num_values(group, "split") > 1]

    def _num_values(self, group: NDArray[np.int64], name: str) -> int:
        return len({getattr(self.images[i], name) for i in group} - {""})


def check_health(config: DataConfig, on_progress: OnProgress = ignore_progress) -> Health:
    """Return what training would find in a named data set, folder, archive or CSV.

    Raises:
        UsageError: there is no such data set.
        DataError: an archive or CSV is damaged, or a folder cannot be read.
    """
    if config.source in DATASETS:
        return _check_named(config, on_progress)
    with open_image_files(existing_path(config.source), Listing()) as files:
        found: dict[str, ImageStats] = {}
        skipped: dict[str, Skipped] = {}
        verdicts = map_images(
            files.entries, file_stats, max_pixels=config.max_pixels, allow_truncated=config.allow_truncated
        )
        for number, (name, verdict) in enumerate(verdicts, start=1):
            if isinstance(verdict, Skipped):
                skipped[name] = verdict
            else:
                found[name] = verdict
            if number % PROGRESS_STEP == 0:
                on_progress(Progress("checking images", number, files.total))
        on_progress(Progress("checking images", len(found), len(found)))
    return _health_of(files, found, skipped, drop_empty=config.drop_empty)


def _health_of(
    files: ImageFiles, found: Mapping[str, ImageStats], refused: Mapping[str, Skipped], *, drop_empty: bool
) -> Health:
    rule = files.label_rule(found, refused)
    labels, without_label = rule.label_files(sorted(found, key=lambda name: name.split("/")))
    counts = Counter(labels.values())
    images = [
        CheckedImage(printable(name), printable(label.class_name), label.split, found[name])
        for name, label in labels.items()
    ]
    skipped = sorted([*files.listing.skipped, *refused.values(), *without_label], key=lambda item: item.file)
    notes: list[str] = []
    problem = ""
    try:
        _, notes = check_classes(files.name, rule, counts, skipped, drop_empty=drop_empty)
    except DataError as error:
        problem = str(error)
    oddities = Counter(note for each in images for note in each.stats.notes)
    return Health(
        name=files.name,
        images=tuple(images),
        skipped=tuple(skipped),
        ignored=files.listing.ignored,
        class_names=tuple(
            map(printable, sorted({label.class_name for label in rule.labels | counts.keys()}, key=natural_order))
        ),
        duplicates=_duplicates(images),
        notes=(*notes, *(f"{note} ({count:,})" for note, count in sorted(oddities.items()))),
        problem=problem,
    )


def _check_named(config: DataConfig, on_progress: OnProgress) -> Health:
    images = DATASETS[config.source].load(config, on_progress)
    facts = zip(images.images, images.labels, images.ids, images.source_splits, strict=True)
    checked = [
        CheckedImage(id_, images.class_names[label], split, image_stats(to_pillow(pixels)))
        for pixels, label, id_, split in facts
    ]
    duplicates, notes = _duplicates(checked), (*images.notes, *same_name_notes(config.source))
    return Health(images.name, tuple(checked), images.skipped, images.ignored, images.class_names, duplicates, notes)


def _duplicates(images: Sequence[CheckedImage]) -> Duplicates:
    equal = equal_groups(each.stats.digest for each in images)
    found = {row: each.stats.signature for row, each in enumerate(images) if each.stats.signature is not None}
    if not found:
        return group_duplicates(equal, None)
    labels = np.unique([each.label for each in images], return_inverse=True)[1]
    signatures = np.zeros((len(images), len(next(iter(found.values())))), np.float32)
    signatures[list(found)] = list(found.values())
    return group_duplicates(equal, signatures, labels)


def file_stats(found: DecodedImage) -> ImageStats:
    """Return the measurements of a decoded file."""
    return replace(image_stats(found.image), format=found.format, mode=found.mode, notes=found.notes)


def image_stats(image: Image.Image) -> ImageStats:
    """Return the measurements of an image in mode RGB or L."""
    digest = hashlib.blake2b(repr(image.size).encode() + image.tobytes(), digest_size=16).digest()
    reduced = image.convert("L")
    brightness = float(np.asarray(reduced.resize((1, 1), Image.Resampling.BOX))[0, 0]) / 255
    if max(image.size) > SHARPNESS_PX:
        reduced.thumbnail((SHARPNESS_PX, SHARPNESS_PX))
    signature = None
    if min(image.size) >= LEAST_PX:
        signature = signature_of(np.asarray(image.convert("RGB")))
    thumbnail, buffer = image.copy(), io.BytesIO()
    thumbnail.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    thumbnail.save(buffer, "JPEG" if max(image.size) > LEAST_PX else "PNG", quality=90)
    sharpness = _sharpness(np.asarray(reduced, np.float32))
    return ImageStats(image.height, image.width, digest, brightness, sharpness, signature, buffer.getvalue())


def _sharpness(luma: Floats) -> float | None:
    if min(luma.shape) < 3 or luma.std() < 1:
        return None
    inner = luma[1:-1, 1:-1]
    laplacian = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:] - 4 * inner
    return float(laplacian.std() / luma.std())

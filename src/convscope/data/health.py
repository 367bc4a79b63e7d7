"""How healthy a data set is: every picture is looked at once, by the rules of training; nothing is refused whole."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convscope.config import DataConfig
from convscope.data import DATASETS
from convscope.data.archive import open_archive
from convscope.data.csv_file import is_csv, read_rows
from convscope.data.decoding import quiet_pillow
from convscope.data.duplicates import LEAST_PX, Duplicates, Floats, equal_groups, members_of, signature_of, tie
from convscope.data.folder import walk_folder
from convscope.data.intake import Entry, load_entry, map_entries, picture_of, printable
from convscope.data.layout import FindHomes, Homes, Listing, check_classes, folder_homes, folders_above, homeless
from convscope.errors import DataError, unknown_name
from convscope.pictures import Skipped
from convscope.progress import OnProgress, Progress, ignore_progress

SHARPNESS_PX = 256
"""Longer side at which sharpness is measured: what is sharp there is sharp for a network that sees 224 pixels."""
THUMBNAIL_PX = 128
PROGRESS_STEP = 64


@dataclass(frozen=True)
class Looks:
    """What a picture is like.

    Args:
        digest: hash of its decoded pixels and its size.
        brightness: mean luma (ITU-R 601), 0 black to 1 white.
        sharpness: deviation of the Laplacian by that of the luma, at SHARPNESS_PX: near 0 is blurred, about 1 is full
            of detail; None of a blank picture and of one below 3 px.
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
class CheckedPicture:
    """A picture that training would use: its id, class, the part its source gives it ("": none), and its looks."""

    id: str
    label: str
    part: str
    looks: Looks


@dataclass(frozen=True)
class Health:
    """What there is to know of a data set before it is trained on; found = len(pictures) + len(skipped).

    Args:
        class_names: all classes, also those without a usable picture.
        problem: why it cannot be trained on as it is, "" if it can.
    """

    name: str
    pictures: tuple[CheckedPicture, ...]
    skipped: tuple[Skipped, ...]
    ignored: int
    class_names: tuple[str, ...]
    duplicates: Duplicates
    notes: tuple[str, ...]
    problem: str = ""

    @property
    def found(self) -> int:
        """Return the number of files that could have been pictures."""
        return len(self.pictures) + len(self.skipped)

    def class_counts(self) -> dict[str, dict[str, int]]:
        """Return class -> part -> number of pictures."""
        counted = Counter((each.label, each.part) for each in self.pictures)
        parts = sorted({each.part for each in self.pictures})
        return {name: {part: counted[name, part] for part in parts} for name in self.class_names}

    def equal_groups(self) -> list[NDArray[np.int64]]:
        """Return the groups of pictures with exactly the same pixels."""
        return members_of(self.duplicates.equal)

    def conflicts(self) -> list[NDArray[np.int64]]:
        """Return the groups of duplicates and near duplicates that stand in more than one class."""
        return [group for group in members_of(self.duplicates.groups) if self._values(group, "label") > 1]

    def leaks(self) -> list[NDArray[np.int64]]:
        """Return the groups of duplicates and near duplicates that the source itself puts into more than one part."""
        return [group for group in members_of(self.duplicates.groups) if self._values(group, "part") > 1]

    def _values(self, group: NDArray[np.int64], name: str) -> int:
        return len({getattr(self.pictures[i], name) for i in group} - {""})


def check_health(config: DataConfig, on_progress: OnProgress = ignore_progress) -> Health:
    """Return what training would find in a named data set, folder, archive or CSV.

    Raises:
        UsageError: there is no such data set.
        DataError: an archive or CSV is damaged, or a folder cannot be read.
    """
    if config.source in DATASETS:
        return _check_named(config, on_progress)
    path, listing = Path(config.source), Listing()
    if not (path.is_dir() or path.is_file()):
        raise unknown_name("data set or path", config.source, DATASETS)
    looked: list[tuple[str, Looks]] = []
    with _open(path, listing) as (entries, total, find_homes):
        for name, verdict in look_at_many(
            entries, max_pixels=config.max_pixels, allow_truncated=config.allow_truncated
        ):
            if isinstance(verdict, Skipped):
                listing.skipped.append(verdict)
            else:
                looked.append((name, verdict))
            if len(looked) % PROGRESS_STEP == 0:
                on_progress(Progress("look at pictures", len(looked) + len(listing.skipped), total))
        on_progress(Progress("look at pictures", len(looked), len(looked)))
        paths = [tuple(name.split("/")) for name, _ in looked]
        with_pictures = {each[:-1] for each in paths}
        homes = find_homes(listing.folders.union(*map(folders_above, with_pictures)), with_pictures)
    return _assemble(printable(path.resolve().name), homes, looked, listing, drop_empty=config.drop_empty)


def _assemble(
    name: str, homes: Homes, looked: list[tuple[str, Looks]], listing: Listing, *, drop_empty: bool
) -> Health:
    pictures, skipped = [], list(listing.skipped)
    counts: Counter[tuple[str, str]] = Counter()
    for file, looks in sorted(looked, key=lambda item: item[0].split("/")):
        parts = tuple(file.split("/"))
        home = homes.of(parts)
        if home is None:
            skipped.append(homeless(parts, homes))
        else:
            counts[home] += 1
            pictures.append(CheckedPicture(printable(file), printable(home[1]), home[0], looks))
    skipped.sort(key=lambda item: item.file)
    notes: list[str] = []
    problem = ""
    try:
        _, notes = check_classes(name, homes, counts, skipped, drop_empty)
    except DataError as error:
        problem = str(error)
    classes = {class_name for _, class_name in homes.all} | {class_name for _, class_name in counts}
    return Health(
        name=name,
        pictures=tuple(pictures),
        skipped=tuple(skipped),
        ignored=listing.ignored,
        class_names=tuple(map(printable, sorted(classes))),
        duplicates=_duplicates(pictures),
        notes=(*notes, *_notes(pictures)),
        problem=problem,
    )


def _check_named(config: DataConfig, on_progress: OnProgress) -> Health:
    images = DATASETS[config.source].load(config, on_progress)
    facts = zip(images.images, images.labels, images.ids, images.parts, strict=True)
    pictures = [
        CheckedPicture(id_, images.class_names[label], part, looks_of(picture_of(pixels)))
        for pixels, label, id_, part in facts
    ]
    duplicates, notes = _duplicates(pictures), images.notes
    return Health(images.name, tuple(pictures), images.skipped, images.ignored, images.class_names, duplicates, notes)


def _duplicates(pictures: Sequence[CheckedPicture]) -> Duplicates:
    equal = equal_groups(each.looks.digest for each in pictures)
    found = [each.looks.signature for each in pictures]
    some = next((signature for signature in found if signature is not None), None)
    if some is None:
        return tie(equal, None)
    blank = np.zeros_like(some)
    return tie(equal, np.stack([blank if signature is None else signature for signature in found]))


def _notes(pictures: Sequence[CheckedPicture]) -> Iterator[str]:
    """Yield one line for each kind of oddity of a file, with its number."""
    for note, count in sorted(Counter(note for each in pictures for note in each.looks.notes).items()):
        yield f"{note} ({count:,})"


def look_at_many(
    entries: Iterable[Entry], *, max_pixels: int, allow_truncated: bool = False
) -> Iterator[tuple[str, Looks | Skipped]]:
    """Yield (name, looks or why there are none) of each entry in order; pictures are looked at in parallel."""

    def look(entry: Entry) -> Looks | Skipped:
        found = load_entry(entry, max_pixels=max_pixels, allow_truncated=allow_truncated)
        if isinstance(found, Skipped):
            return found
        return replace(looks_of(found.image), format=found.format, mode=found.mode, notes=found.notes)

    def work(batch: list[Entry]) -> list[tuple[str, Looks | Skipped]]:
        with quiet_pillow:
            return [(entry.name, look(entry)) for entry in batch]

    return map_entries(entries, work)


def looks_of(image: Image.Image) -> Looks:
    """Return what a picture in mode RGB or L is like."""
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
    return Looks(
        height=image.height,
        width=image.width,
        digest=digest,
        brightness=brightness,
        sharpness=_sharpness(np.asarray(reduced, np.float32)),
        signature=signature,
        thumbnail=buffer.getvalue(),
    )


def _sharpness(luma: Floats) -> float | None:
    if min(luma.shape) < 3 or luma.std() < 1:
        return None
    inner = luma[1:-1, 1:-1]
    laplacian = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:] - 4 * inner
    return float(laplacian.std() / luma.std())


@contextmanager
def _open(path: Path, listing: Listing) -> Iterator[tuple[Iterable[Entry], int | None, FindHomes]]:
    if path.is_dir():
        try:
            entries = sorted(walk_folder(path, listing), key=lambda entry: entry.name)
        except OSError as error:
            name = printable(str(path))
            raise DataError(f"folder {name} cannot be read ({error.strerror}); check its path and rights") from error
        yield entries, len(entries), folder_homes
    elif is_csv(path):
        entries, homes = read_rows(path, listing)
        yield entries, len(entries), lambda *_: homes
    else:
        with open_archive(path, listing) as (members, total):
            yield members, total, folder_homes

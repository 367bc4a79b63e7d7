"""From files to a labelled ImageSet: read or taken from the store, given to classes, checked, counted."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from convscope.config import DataConfig
from convscope.data.image_set import ImageSet
from convscope.data.intake import (
    DEFAULT_IMAGE_SIZE,
    MAX_OWN_SIZE,
    Decoded,
    Entry,
    Fit,
    Stamp,
    Unread,
    decode_many,
    fit_of,
    fit_picture,
    printable,
)
from convscope.data.layout import (
    FindHomes,
    Listing,
    PathParts,
    check_classes,
    folder_homes,
    folders_above,
    homeless,
    listed,
    shown,
)
from convscope.data.store import Accepted, Contents, Kept, Refused, save_kept
from convscope.pictures import Skipped
from convscope.progress import OnProgress, Progress

PROGRESS_STEP = 256
"""Pictures between two reports of progress."""

_Placed = tuple[PathParts, tuple[str, str], Decoded]


def gather(
    name: str,
    config: DataConfig,
    entries: Iterable[Entry],
    listing: Listing,
    on_progress: OnProgress,
    *,
    total: int | None,
    kept: Kept,
    archive_stamp: Stamp = (),
    find_homes: FindHomes | None = None,
) -> ImageSet:
    """Return the pictures behind `entries` as one set; what the store keeps of them is not read again.

    Args:
        name: what the set is called, printable.
        listing: filled while `entries` is consumed; read afterwards.
        total: number of entries if known.
        kept: what the store holds of the source.
        archive_stamp: of the archive that all entries are in.
        find_homes: None goes by the class folders that the files are in.

    Raises:
        DataError: there are fewer than two classes, a class without a picture, or parts with different classes.
    """
    accepted, refused = _read(config, entries, kept, on_progress, total)
    paths = [tuple(name.split("/")) for name, _, _ in accepted]
    with_pictures = {path[:-1] for path in paths}
    folders = listing.folders.union(*map(folders_above, with_pictures))
    found = (find_homes or folder_homes)(folders, with_pictures)
    homes = [found.of(path) for path in paths]
    strays = [homeless(path, found) for path, home in zip(paths, homes, strict=True) if home is None]
    skipped = sorted([*listing.skipped, *(item for _, _, item in refused), *strays], key=lambda item: item.file)
    placed = [
        (path, home, item) for path, home, (_, _, item) in zip(paths, homes, accepted, strict=True) if home is not None
    ]
    counts = Counter(home for _, home, _ in placed)
    class_names, class_notes = check_classes(name, found, counts, skipped, config.drop_empty)
    numbers = {class_name: number for number, class_name in enumerate(class_names)}
    notes = [*_size_notes(placed, config), *class_notes, *_picture_notes(placed)]
    labels = np.array([numbers[class_name] for _, (_, class_name), _ in placed], np.int64)
    ids = tuple(shown(file) for file, _, _ in placed)
    parts = tuple(part for _, (part, _), _ in placed)
    used = tuple(item for item, home in zip(accepted, homes, strict=True) if home is not None)
    whole = not strays and not any(isinstance(item, Unread) for _, _, item in refused)
    images = _update_store(config, kept, used, refused, listing.contents(archive_stamp) if whole else None)
    return ImageSet(
        name=name,
        images=images,
        labels=labels,
        class_names=tuple(map(printable, class_names)),
        ids=ids,
        parts=parts,
        skipped=tuple(skipped),
        ignored=listing.ignored,
        notes=tuple(notes),
    )


def _read(
    config: DataConfig, entries: Iterable[Entry], kept: Kept, on_progress: OnProgress, total: int | None
) -> tuple[list[Accepted], list[Refused]]:
    """Return the pictures in the order of their paths, and what was refused; what is kept is not decoded again."""
    accepted: list[Accepted] = []
    refused: list[Refused] = []
    stamps: dict[str, Stamp] = {}

    def file_away(name: str, stamp: Stamp, verdict: Decoded | Skipped) -> None:
        if isinstance(verdict, Skipped):
            refused.append((name, stamp, verdict))
        else:
            accepted.append((name, stamp, verdict))

    def unknown() -> Iterator[Entry]:
        for entry in entries:
            verdict = kept.verdict(entry)
            if verdict is not None:
                file_away(entry.name, entry.stamp, verdict)
            else:
                stamps[entry.name] = entry.stamp
                yield entry

    verdicts = decode_many(
        unknown(),
        fit_of(config),
        max_pixels=config.max_pixels,
        allow_truncated=config.allow_truncated,
    )
    for number, (name, verdict) in enumerate(verdicts):
        file_away(name, stamps[name], verdict)
        if number % PROGRESS_STEP == PROGRESS_STEP - 1 and len(accepted) + len(refused) != total:
            on_progress(Progress("reading pictures", len(accepted) + len(refused), total))
    done = len(accepted) + len(refused)
    on_progress(Progress("reading pictures", done, done))
    accepted.sort(key=lambda item: item[0].split("/"))
    refused.sort(key=itemgetter(0))
    return accepted, refused


def _update_store(
    config: DataConfig, kept: Kept, accepted: tuple[Accepted, ...], refused: list[Refused], contents: Contents | None
) -> NDArray[np.uint8]:
    """Return the accepted pictures, uint8 [N, S, S, C]: mapped from the store, which is written anew if it differs."""
    lasting = tuple(item for item in refused if not isinstance(item[2], Unread))

    def files(items: Iterable[Accepted | Refused]) -> list[tuple[str, Stamp]]:
        return [(name, stamp) for name, stamp, _ in items]

    same = files(accepted) == files(kept.accepted) and len(kept.pixels) == len(accepted)
    images = kept.pixels if same else _stack([item.image for _, _, item in accepted], config)
    if not same or files(lasting) != files(kept.refused) or contents != kept.contents:
        save_kept(config, Kept(images, accepted, lasting, contents))
    return images


def _stack(pictures: list[NDArray[np.uint8]], config: DataConfig) -> NDArray[np.uint8]:
    """Return all pictures as uint8 [N, S, S, C]; empties the list, so that they are not held twice."""
    sides = {len(picture) for picture in pictures}
    size = sides.pop() if len(sides) == 1 else DEFAULT_IMAGE_SIZE
    images = np.empty((len(pictures), size, size, 1 if config.gray else 3), np.uint8)
    fit = Fit(image_size=size, gray=config.gray)
    for number in reversed(range(len(pictures))):
        picture = pictures.pop()
        images[number] = picture if len(picture) == size else fit_picture(picture, fit)
    return images


def _size_notes(placed: Sequence[_Placed], config: DataConfig) -> list[str]:
    """Return a note where we chose the size of the pictures."""
    sizes = {item.source_size for _, _, item in placed}
    smallest, largest = min(sizes), max(sizes)
    if config.image_size is not None or (len(sizes) == 1 and largest[0] == largest[1] <= MAX_OWN_SIZE):
        return []
    seen = " to ".join(f"{width}x{height}" for height, width in sorted({smallest, largest}))
    return [
        f"pictures of {seen} px were resized to {DEFAULT_IMAGE_SIZE}x{DEFAULT_IMAGE_SIZE}; choose with --image-size"
    ]


def _picture_notes(placed: Sequence[_Placed]) -> list[str]:
    """Return one line for each kind of oddity, with the pictures it was seen in."""
    seen: dict[str, list[str]] = defaultdict(list)
    for file, _, item in placed:
        for note in item.notes:
            seen[note].append(shown(file))
    return [f"{note} ({len(files)}): {listed(files)}" for note, files in sorted(seen.items())]

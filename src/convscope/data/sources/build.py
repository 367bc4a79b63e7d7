"""From files to a labelled ImageSet: decoded or taken from the cache, labelled, checked, counted."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from convscope.config import DataConfig
from convscope.data.dataset import ImageSet
from convscope.data.decode.cache import DecodeCache, Key, save_cache
from convscope.data.decode.decode import Decoded, decode_many
from convscope.data.decode.files import Entry, Listing, Stamp, Unread
from convscope.data.decode.resize import DEFAULT_IMAGE_SIZE, MAX_OWN_SIZE, Resizing, resize_image, resizing_of
from convscope.data.names import printable
from convscope.data.sources.image_files import ImageFiles
from convscope.data.sources.labels import check_classes, first_names
from convscope.progress import OnProgress, Progress
from convscope.results.prediction import Skipped

PROGRESS_STEP = 256
"""Images between two progress reports."""


def build_dataset(
    files: ImageFiles, config: DataConfig, cache: DecodeCache, on_progress: OnProgress, *, to_train: bool = True
) -> ImageSet:
    """Return the labelled images among some files; what the cache holds of them is not decoded again.

    Args:
        to_train: refuse what no classifier can be trained on; see `check_classes`.

    Raises:
        NoLabels: there are images, but none of a class.
        DataError: there are fewer than two classes, a class without an image, or splits with different classes.
    """
    if not (isinstance(files.entries, list) and cache.is_of(files.entries)):
        cache = cache.drop_resized(config)
    accepted, refused = _decode(files, config, cache, on_progress)
    rule = files.label_rule(name for name, _ in accepted)
    labels, without_label = rule.label_files([name for name, _ in accepted])
    used = {(name, stamp): item for (name, stamp), item in accepted.items() if name in labels}
    skipped = sorted([*files.listing.skipped, *refused.values(), *without_label], key=lambda item: item.file)
    class_names, class_notes = check_classes(
        files.name, rule, Counter(labels.values()), skipped, drop_empty=config.drop_empty, to_train=to_train
    )
    number_of = {class_name: number for number, class_name in enumerate(class_names)}
    notes = (*_size_notes(used.values(), config), *class_notes, *_image_notes(used))
    whole = len(used) == len(accepted) and not any(isinstance(item, Unread) for item in refused.values())
    archive = (files.stamp, files.listing) if whole and files.stamp else None
    return ImageSet(
        name=files.name,
        images=_update_cache(config, cache, used, refused, archive),
        labels=np.array([number_of[label.class_name] for label in labels.values()], np.int64),
        class_names=tuple(map(printable, class_names)),
        ids=tuple(printable(name) for name, _ in used),
        source_splits=tuple(label.split for label in labels.values()),
        skipped=tuple(skipped),
        ignored=files.listing.ignored,
        notes=notes,
    )


def _decode(
    files: ImageFiles, config: DataConfig, cache: DecodeCache, on_progress: OnProgress
) -> tuple[dict[Key, Decoded], dict[Key, Skipped]]:
    """Return the images in the order of their paths, and what was refused."""
    found: dict[Key, Decoded | Skipped] = {}
    stamps: dict[str, Stamp] = {}

    def unknown() -> Iterator[Entry]:
        for entry in files.entries:
            verdict = cache.verdict(entry)
            if verdict is None:
                stamps[entry.name] = entry.stamp
                yield entry
            else:
                found[entry.name, entry.stamp] = verdict

    verdicts = decode_many(
        unknown(), resizing_of(config), max_pixels=config.max_pixels, allow_truncated=config.allow_truncated
    )
    for number, (name, verdict) in enumerate(verdicts, start=1):
        found[name, stamps[name]] = verdict
        if number % PROGRESS_STEP == 0 and len(found) != files.total:
            on_progress(Progress("reading images", len(found), files.total))
    on_progress(Progress("reading images", len(found), len(found)))
    ordered = sorted(found.items(), key=lambda item: item[0][0].split("/"))
    accepted = {key: verdict for key, verdict in ordered if isinstance(verdict, Decoded)}
    return accepted, {key: verdict for key, verdict in ordered if isinstance(verdict, Skipped)}


def _update_cache(
    config: DataConfig,
    cache: DecodeCache,
    accepted: Mapping[Key, Decoded],
    refused: Mapping[Key, Skipped],
    archive: tuple[Stamp, Listing] | None,
) -> NDArray[np.uint8]:
    """Return the accepted images, uint8 [N, S, S, C], from the cache, which is written again if it differs."""
    lasting = {key: item for key, item in refused.items() if not isinstance(item, Unread)}
    same = list(accepted) == list(cache.accepted) and len(cache.pixels) == len(accepted)
    images = cache.pixels if same else _stack([item.image for item in accepted.values()], config)
    if not same or list(lasting) != list(cache.refused) or archive != cache.archive:
        save_cache(config, DecodeCache(images, accepted, lasting, archive))
    return images


def _stack(arrays: list[NDArray[np.uint8]], config: DataConfig) -> NDArray[np.uint8]:
    """Return all images as uint8 [N, S, S, C]; empties the list, so that memory never holds them twice."""
    sides = {len(array) for array in arrays}
    size = sides.pop() if len(sides) == 1 else DEFAULT_IMAGE_SIZE
    images = np.empty((len(arrays), size, size, 1 if config.gray else 3), np.uint8)
    resizing = Resizing(image_size=size, gray=config.gray)
    for number in reversed(range(len(arrays))):
        array = arrays.pop()
        images[number] = array if len(array) == size else resize_image(array, resizing)
    return images


def _size_notes(accepted: Iterable[Decoded], config: DataConfig) -> list[str]:
    """Return a note where convscope chose the size of the images."""
    sizes = {item.source_size for item in accepted}
    smallest, largest = min(sizes), max(sizes)
    if config.image_size is not None or (len(sizes) == 1 and largest[0] == largest[1] <= MAX_OWN_SIZE):
        return []
    found = " to ".join(f"{width}x{height}" for height, width in sorted({smallest, largest}))
    return [f"images of {found} px were resized to {DEFAULT_IMAGE_SIZE}x{DEFAULT_IMAGE_SIZE}; choose with --image-size"]


def _image_notes(accepted: Mapping[Key, Decoded]) -> list[str]:
    """Return one line for each oddity found in the files, with the names of the files."""
    names_with: dict[str, list[str]] = defaultdict(list)
    for (name, _), item in accepted.items():
        for note in item.notes:
            names_with[note].append(name)
    return [f"{note} ({len(names)}): {first_names(names)}" for note, names in sorted(names_with.items())]

"""From files to a labelled ImageSet: decoded or taken from the cache, labelled, checked, counted."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from convscope.config import DataConfig
from convscope.data.dataset import ImageSet
from convscope.data.decode.cache import DecodeCache, Key, save_cache
from convscope.data.decode.decode import Decoded, decode_many
from convscope.data.decode.files import BATCH_ENTRIES, Entry, Listing, Stamp, Unread
from convscope.data.decode.resize import DEFAULT_IMAGE_SIZE, MAX_OWN_SIZE, Resizing, resize_image, resizing_of
from convscope.data.names import first_names, printable
from convscope.data.sources.image_files import ImageFiles
from convscope.data.sources.labels import check_classes
from convscope.data.sources.per_class import Verdicts, first_accepted, open_until_enough, rule_with
from convscope.errors import UsageError
from convscope.progress import OnProgress, Progress
from convscope.results.prediction import Skipped
from convscope.sizes import size_text

PROGRESS_STEP = 256
"""Images between two progress reports."""
LIMITED_BATCH = 8
"""Images that a decoding thread takes at a time under a memory limit, so that few wait in memory."""


@dataclass(frozen=True)
class Limit:
    """The memory of the process while images are read.

    Args:
        limit_bytes: the most that it may use.
        used_bytes: what it used before.
        always_bytes: images of this size are read even beyond the limit, so that a plan can name the smallest one.
    """

    limit_bytes: int
    used_bytes: int
    always_bytes: int = 64 * 2**20


def build_dataset(
    files: ImageFiles,
    config: DataConfig,
    cache: DecodeCache,
    on_progress: OnProgress,
    *,
    to_train: bool = True,
    limit: Limit | None = None,
) -> ImageSet:
    """Return the labelled images among some files; what the cache holds of them is not decoded again.

    Args:
        to_train: refuse what no classifier can be trained on; see `check_classes`.

    Raises:
        NoLabels: there are images, but none of a class.
        DataError: there are fewer than two classes, a class without an image, or splits with different classes.
        UsageError: the images take more memory than the limit.
    """
    if not (isinstance(files.entries, list) and cache.is_of(files.entries)):
        cache = cache.drop_resized(config)
    accepted, refused, unopened = _open(files, config, _Decoder(config, cache, on_progress, limit))
    rule = rule_with(files, {name: item for (name, _), item in (*accepted.items(), *refused.items())}, unopened)
    labels, without_label = rule.label_files([name for name, _ in accepted])
    used = {(name, stamp): item for (name, stamp), item in accepted.items() if name in labels}
    skipped = sorted([*files.listing.skipped, *refused.values(), *without_label], key=lambda item: item.file)
    class_names, class_notes = check_classes(
        files.name, rule, Counter(labels.values()), skipped, drop_empty=config.drop_empty, to_train=to_train
    )
    number_of = {class_name: number for number, class_name in enumerate(class_names)}
    notes = (*_size_notes(used.values(), config), *class_notes, *_image_notes(used))
    if unopened:
        enough = f"--per-class {config.per_class} is reached without them"
        notes = (*notes, f"{len(unopened):,} files were not opened, broken or not: {enough}")
    whole = len(used) == len(accepted) and not any(isinstance(item, Unread) for item in refused.values())
    archive = (files.stamp, files.listing) if whole and files.stamp and not unopened else None
    accepted.clear()  # so that `_stack` can free each image once it is copied
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


def _open(
    files: ImageFiles, config: DataConfig, decoder: _Decoder
) -> tuple[dict[Key, Decoded], dict[Key, Skipped], list[str]]:
    """Return the images in the order of their paths, what was refused, and the files that `per_class` leaves out."""
    unopened: list[str] = []
    if config.per_class is None:
        found = _decode(decoder, files.entries, files.total)
    else:
        found = {}

        def decode(entries: list[Entry]) -> Verdicts:
            more = _decode(decoder, entries, len(entries))
            found.update(more)
            return {name: verdict for (name, _), verdict in more.items()}

        limit = config.per_class, config.split_seed
        enough = open_until_enough(files, decode, *limit) if isinstance(files.entries, list) else None
        if enough is not None:
            unopened = enough[1]
        else:  # a tar is read from its beginning
            found = _decode(decoder, files.entries, files.total)
            verdicts = {name: verdict for (name, _), verdict in found.items()}
            rule = rule_with(files, verdicts, ())
            kept = first_accepted(verdicts, rule, *limit)
            found = {
                (name, stamp): verdict
                for (name, stamp), verdict in found.items()
                if name in kept or isinstance(verdict, Skipped) or rule.label_of(name) is None
            }
    ordered = sorted(found.items(), key=lambda item: item[0][0].split("/"))
    accepted = {key: verdict for key, verdict in ordered if isinstance(verdict, Decoded)}
    return accepted, {key: verdict for key, verdict in ordered if isinstance(verdict, Skipped)}, unopened


@dataclass(frozen=True)
class _Decoder:
    """How files are decoded, what is known of them, and how much memory they may take."""

    config: DataConfig
    cache: DecodeCache
    on_progress: OnProgress
    limit: Limit | None


def _decode(decoder: _Decoder, entries: Iterable[Entry], total: int | None) -> dict[Key, Decoded | Skipped]:
    """Return the verdict on each file."""
    config, cache, limit = decoder.config, decoder.cache, decoder.limit
    found: dict[Key, Decoded | Skipped] = {}
    stamps: dict[str, Stamp] = {}
    held = 0

    def keep(key: Key, verdict: Decoded | Skipped) -> None:
        nonlocal held
        found[key] = verdict
        if limit is not None and isinstance(verdict, Decoded):
            held += verdict.image.nbytes
            _check_memory(limit, held, len(found), total)

    def unknown() -> Iterator[Entry]:
        for entry in entries:
            verdict = cache.verdict(entry)
            if verdict is None:
                stamps[entry.name] = entry.stamp
                yield entry
            else:
                keep((entry.name, entry.stamp), verdict)

    verdicts = decode_many(
        unknown(),
        resizing_of(config),
        max_pixels=config.max_pixels,
        allow_truncated=config.allow_truncated,
        at_once=BATCH_ENTRIES if limit is None else LIMITED_BATCH,
    )
    for number, (name, verdict) in enumerate(verdicts, start=1):
        keep((name, stamps[name]), verdict)
        if number % PROGRESS_STEP == 0 and len(found) != total:
            decoder.on_progress(Progress("reading images", len(found), total))
    decoder.on_progress(Progress("reading images", len(found), len(found)))
    return found


def _check_memory(limit: Limit, held_bytes: int, read: int, total: int | None) -> None:
    """Raise a UsageError if the images held, or the whole process as it is now, exceed the limit."""
    import psutil  # imported late, so that `predict` starts fast

    needed_bytes = max(limit.used_bytes + held_bytes, psutil.Process().memory_info().rss)
    if needed_bytes <= max(limit.limit_bytes, limit.used_bytes + limit.always_bytes):
        return
    of_all = "" if total is None else f" of {total:,}"
    everything = "" if total is None else f", all about {size_text(held_bytes * total // read)}"
    raise UsageError(
        f"memory {size_text(limit.limit_bytes)} is too little for the images: {read:,}{of_all} take "
        f"{size_text(held_bytes)}{everything}, beside {size_text(limit.used_bytes)} of the program; use more --memory, "
        "a smaller --image-size or fewer images (--per-class)"
    )


def _update_cache(
    config: DataConfig,
    cache: DecodeCache,
    accepted: dict[Key, Decoded],
    refused: Mapping[Key, Skipped],
    archive: tuple[Stamp, Listing] | None,
) -> NDArray[np.uint8]:
    """Return the accepted images, uint8 [N, S, S, C], from the cache, which is written again if it differs."""
    lasting = {key: item for key, item in refused.items() if not isinstance(item, Unread)}
    same = list(accepted) == list(cache.accepted) and len(cache.pixels) == len(accepted)
    images = cache.pixels if same else _stack(accepted, config)
    if not same or list(lasting) != list(cache.refused) or archive != cache.archive:
        save_cache(config, DecodeCache(images, accepted, lasting, archive))
    return images


def _stack(accepted: dict[Key, Decoded], config: DataConfig) -> NDArray[np.uint8]:
    """Return all images as uint8 [N, S, S, C]; those given become views of it, so that none is held twice."""
    sides = {len(item.image) for item in accepted.values()}
    size = sides.pop() if len(sides) == 1 else DEFAULT_IMAGE_SIZE
    images = np.empty((len(accepted), size, size, 1 if config.gray else 3), np.uint8)
    resizing = Resizing(image_size=size, gray=config.gray)
    for number, (key, item) in enumerate(accepted.items()):
        images[number] = item.image if len(item.image) == size else resize_image(item.image, resizing)
        accepted[key] = replace(item, image=images[number])
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

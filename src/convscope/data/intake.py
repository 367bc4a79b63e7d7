"""The one loader of training, evaluation, prediction, serving and report: bytes in, pictures of one size out.

A picture gets the same verdict everywhere: `Decoded`, or `Skipped` with a reason and a remedy; `decoding` holds the
rules. Pictures of any shape are accepted, down to 1x1 and 1x5000; `Fit` says how they become squares of one size.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convscope.config import DataConfig, Interpolation, Resize
from convscope.data.decoding import DecodedImage, decode_image, quiet_pillow
from convscope.data.names import is_ignored, printable
from convscope.pictures import Skipped
from convscope.processors import available_processors

__all__ = [
    "DEFAULT_IMAGE_SIZE",
    "MAX_OWN_SIZE",
    "Decoded",
    "Entry",
    "Fit",
    "Stamp",
    "Unread",
    "decode_many",
    "decode_picture",
    "fit_entry",
    "fit_of",
    "fit_picture",
    "is_ignored",
    "load_entry",
    "map_entries",
    "own_size",
    "picture_of",
    "printable",
    "stamp_of",
    "unreadable",
]

DEFAULT_IMAGE_SIZE = 64
"""Side in pixels of pictures from a source whose own size cannot be kept."""
MAX_OWN_SIZE = 96
"""A source of square pictures keeps its own size up to this side in pixels."""
MAX_FILE_BYTES = 256 * 2**20
"""Larger files are not read."""
BATCH_ENTRIES = 64
"""Pictures that a decoding thread takes at a time, so that the hand-over costs little beside a tiny JPEG."""
BATCH_BYTES = 8 * 2**20
"""Encoded bytes after which a batch is full anyway."""

T = TypeVar("T")

_FILTERS: dict[Interpolation, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How a picture is brought to the square that the network takes; the fields are those of DataConfig.

    First an edge of the same share on all sides is cut away (`crop_fraction`), then the longer side down to a square
    (`crop`) or the proportions given up (`squash`), in one step with the resizing to `image_size` pixels; None keeps
    the shorter side. Gray is ITU-R 601 luma, taken before resizing. The filter is Pillow's, antialiased: its support
    grows with the reduction.
    """

    image_size: int | None
    gray: bool
    resize: Resize = "crop"
    crop_fraction: float = 1.0
    interpolation: Interpolation = "bilinear"


def fit_of(config: DataConfig) -> Fit:
    """Return how the pictures of a data set are fitted."""
    return Fit(**{field.name: getattr(config, field.name) for field in fields(Fit)})


@dataclass(frozen=True, eq=False)
class Decoded:
    """One picture.

    Args:
        image: uint8 [H, W, C], C 1 or 3.
        notes: what was odd about its file, one printable line each.
        source_size: (height, width) in pixels before it was fitted.
        format: JPEG, PNG, ...
        mode: Pillow's, of the file: RGB, L, P, CMYK, ...
    """

    image: NDArray[np.uint8]
    notes: tuple[str, ...]
    source_size: tuple[int, int]
    format: str
    mode: str


class Unread(Skipped):
    """A file that the system did not let us read; another try may succeed."""


Stamp = tuple[int, ...]
"""What tells whether a file is still the same: size in bytes, times of change in ns; () is unknown."""


def stamp_of(status: os.stat_result) -> Stamp:
    """Return the stamp of a file; the time its inode changed catches what sets the other one back."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


@dataclass(frozen=True, slots=True)
class Entry:
    """A file to decode. `read` returns its content or raises OSError; it is called in another thread.

    Args:
        name: path relative to the source, parts divided by "/", as the source spells it.
        size: bytes of the content, as far as known beforehand.
        stamp: of the file, or of the archive that it is in.
    """

    name: str
    size: int
    read: Callable[[], bytes]
    stamp: Stamp = ()


def decode_picture(content: bytes, name: str, *, max_pixels: int, allow_truncated: bool = False) -> Decoded | Skipped:
    """Return the picture in `content` as RGB, uint8 [H, W, 3], or why there is none.

    Args:
        name: shown in the verdict, and compared with the format found; it need not be printable.
        max_pixels: a picture with more is not decoded; its header is enough to know.
        allow_truncated: accept a picture whose file is cut short, and note it.
    """
    found = decode_image(content, name, max_pixels, allow_truncated)
    if isinstance(found, Skipped):
        return found
    return _decoded(found.image, found)


def fit_picture(image: NDArray[np.uint8], fit: Fit) -> NDArray[np.uint8]:
    """Return a picture, uint8 [H, W, 1 or 3], as a square, uint8 [S, S, 1 or 3]."""
    flat = picture_of(image)
    if not fit.gray and flat.mode == "L":
        flat = flat.convert("RGB")
    return _pixels(_fitted(flat, fit))


def decode_many(
    entries: Iterable[Entry],
    fit: Fit,
    *,
    max_pixels: int,
    allow_truncated: bool = False,
    threads: int | None = None,
) -> Iterator[tuple[str, Decoded | Skipped]]:
    """Yield (name, verdict) of each entry in order; pictures are decoded and fitted in parallel.

    Only fitted pictures are kept: at most a few batches of entries are under way at any time. When its `image_size` is
    None, a square picture of at most MAX_OWN_SIZE px keeps its size and any other gets DEFAULT_IMAGE_SIZE.

    Args:
        threads: decoding threads; None takes one for each processor this process may use.
    """

    def verdicts(batch: list[Entry]) -> list[tuple[str, Decoded | Skipped]]:
        with quiet_pillow:  # entered here once for the batch: setting filters costs as much as a tenth of a tiny JPEG
            found = (fit_entry(entry, fit, max_pixels=max_pixels, allow_truncated=allow_truncated) for entry in batch)
            return [(entry.name, verdict) for entry, verdict in zip(batch, found, strict=True)]

    return map_entries(entries, verdicts, threads=threads)


def map_entries(
    entries: Iterable[Entry],
    work: Callable[[list[Entry]], list[T]],
    *,
    batch_size: int = BATCH_ENTRIES,
    threads: int | None = None,
) -> Iterator[T]:
    """Yield what `work` makes of each entry, in order; batches of entries are worked on in parallel.

    At most a few batches are under way at any time, so only what `work` returns is kept.

    Args:
        batch_size: entries that a thread takes at a time, at most.
        threads: None takes one for each processor this process may use.
    """
    count = threads or available_processors()
    pending: deque[Future[list[T]]] = deque()
    with ThreadPoolExecutor(count, thread_name_prefix="decode") as pool:
        try:
            for batch in _batches(entries, batch_size):
                pending.append(pool.submit(work, batch))
                if len(pending) > 2 * count:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def own_size(height: int, width: int) -> int:
    """Return the side in pixels that a picture gets when none is asked for."""
    return width if width == height <= MAX_OWN_SIZE else DEFAULT_IMAGE_SIZE


def unreadable(name: str, error: OSError | MemoryError) -> Unread:
    """Return the verdict on a file or folder that the system did not let us read."""
    if isinstance(error, PermissionError):
        return Unread(printable(name), "permission denied", "give yourself the right to read it (chmod u+rX)")
    if isinstance(error, FileNotFoundError):
        return Unread(printable(name), "not there any more", "put it back, or remove the link that points to it")
    detail = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return Unread(printable(name), f"cannot be read ({printable(detail)})", "copy it again from where it came")


def picture_of(image: NDArray[np.uint8]) -> Image.Image:
    """Return a picture, uint8 [H, W, 1 or 3], in Pillow's form: mode L or RGB."""
    return Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)


# ---------------------------------------------------------------- to size


def _fitted(image: Image.Image, fit: Fit) -> Image.Image:
    """Return the square that is made of a picture."""
    if fit.gray and image.mode != "L":
        image = image.convert("L")
    width, height = image.size
    side = min(width, height)
    size = fit.image_size or side
    if width == height == size and fit.crop_fraction == 1:
        return image
    kept_width: float
    kept_height: float
    kept_width, kept_height = (side, side) if fit.resize == "crop" else (width, height)
    if fit.crop_fraction == 1:
        left: float = (width - kept_width) // 2  # whole pixels: what is only cut out stays as sharp as it was
        top: float = (height - kept_height) // 2
    else:
        kept_width, kept_height = (kept * fit.crop_fraction for kept in (kept_width, kept_height))
        left, top = (width - kept_width) / 2, (height - kept_height) / 2
    box = (left, top, left + kept_width, top + kept_height)
    return image.resize((size, size), _FILTERS[fit.interpolation], box=box)


def _pixels(image: Image.Image) -> NDArray[np.uint8]:
    """Return uint8 [H, W, C], C 1 for mode L and 3 for RGB."""
    shape = (image.height, image.width, len(image.getbands()))
    return np.frombuffer(image.tobytes(), np.uint8).reshape(shape).copy()  # twice as fast as np.array on tiny pictures


# ---------------------------------------------------------------- many pictures


def load_entry(entry: Entry, *, max_pixels: int, allow_truncated: bool = False) -> DecodedImage | Skipped:
    """Return the picture of one entry as it is, or why there is none; the rest as `decode_picture`."""
    if entry.size > MAX_FILE_BYTES:
        return Skipped(
            printable(entry.name), f"too many bytes ({entry.size} > {MAX_FILE_BYTES})", "save it again as JPEG or PNG"
        )
    try:
        content = entry.read()
    except (OSError, MemoryError) as error:
        return unreadable(entry.name, error)
    return decode_image(content, entry.name, max_pixels, allow_truncated)


def fit_entry(entry: Entry, fit: Fit, *, max_pixels: int, allow_truncated: bool = False) -> Decoded | Skipped:
    """Return the fitted picture of one entry, or why there is none; `max_pixels` and the rest as `decode_picture`."""
    found = load_entry(entry, max_pixels=max_pixels, allow_truncated=allow_truncated)
    if isinstance(found, Skipped):
        return found
    if fit.image_size is None:
        fit = replace(fit, image_size=own_size(found.image.height, found.image.width))
    return _decoded(_fitted(found.image, fit), found)


def _decoded(image: Image.Image, found: DecodedImage) -> Decoded:
    size = (found.image.height, found.image.width)
    return Decoded(_pixels(image), found.notes, size, found.format, found.mode)


def _batches(entries: Iterable[Entry], most: int) -> Iterator[list[Entry]]:
    """Yield the entries in lists that are worth a hand-over between threads and bounded in bytes."""
    batch: list[Entry] = []
    size = 0
    for entry in entries:
        batch.append(entry)
        size += entry.size
        if len(batch) == most or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch

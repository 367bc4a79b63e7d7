"""The one loader of training, evaluation, prediction, serving and report: bytes in, images of one size out."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convscope.data.decode.files import BATCH_ENTRIES, MAX_FILE_BYTES, Entry, map_entries, unreadable
from convscope.data.decode.pillow import DecodedImage, decode_image, quiet_pillow
from convscope.data.decode.resize import Resizing, default_size, from_pillow, resize_pillow
from convscope.data.decode.turns import one_image
from convscope.data.names import printable
from convscope.results.prediction import Skipped

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Decoded:
    """One image, uint8 [H, W, C], C 1 or 3, and what its file was.

    Args:
        notes: what is odd about the file, one printable line each.
        source_size: (height, width) in pixels before resizing.
        format, mode: Pillow's: JPEG, PNG, ... and RGB, L, P, CMYK, ...
    """

    image: NDArray[np.uint8]
    notes: tuple[str, ...]
    source_size: tuple[int, int]
    format: str
    mode: str


def decode_rgb(content: bytes, name: str, *, max_pixels: int, allow_truncated: bool = False) -> Decoded | Skipped:
    """Return the image in `content` as RGB, uint8 [H, W, 3], or why there is none; arguments as `decode_image`."""
    found = decode_image(content, name, max_pixels, allow_truncated)
    return found if isinstance(found, Skipped) else _decoded(found.image, found)


def decode_many(
    entries: Iterable[Entry],
    resizing: Resizing,
    *,
    max_pixels: int,
    allow_truncated: bool = False,
    at_once: int = BATCH_ENTRIES,
) -> Iterator[tuple[str, Decoded | Skipped]]:
    """Yield (name, resized image or why there is none) of each entry in order, as `map_images`.

    Without an `image_size`, a square image of at most MAX_OWN_SIZE px keeps its size and any other gets
    DEFAULT_IMAGE_SIZE.
    """
    resize = partial(_resize, resizing=resizing)
    return map_images(entries, resize, max_pixels=max_pixels, allow_truncated=allow_truncated, at_once=at_once)


def map_images(
    entries: Iterable[Entry],
    function: Callable[[DecodedImage], T],
    *,
    max_pixels: int,
    allow_truncated: bool = False,
    at_once: int = BATCH_ENTRIES,
) -> Iterator[tuple[str, T | Skipped]]:
    """Yield (name, function(image) or why there is no image) of each entry in order, computed in parallel.

    At most a few batches of `at_once` entries are in memory at any time. Limits as `decode_image`.
    """

    def work(batch: list[Entry]) -> list[tuple[str, T | Skipped]]:
        with quiet_pillow:  # once for the batch: setting filters costs as much as a tenth of a tiny JPEG
            return [(entry.name, of_one(entry)) for entry in batch]

    def of_one(entry: Entry) -> T | Skipped:
        with one_image():
            found = load_entry(entry, max_pixels, allow_truncated)
            return found if isinstance(found, Skipped) else function(found)

    return map_entries(entries, work, batch_size=at_once)


def load_entry(entry: Entry, max_pixels: int, allow_truncated: bool) -> DecodedImage | Skipped:
    """Return the image of one entry in its own size, or why there is none; limits as `decode_image`."""
    if entry.size > MAX_FILE_BYTES:
        reason = f"too many bytes ({entry.size} > {MAX_FILE_BYTES})"
        return Skipped(printable(entry.name), reason, "save it again as JPEG or PNG")
    try:
        content = entry.read()
    except (OSError, MemoryError) as error:
        return unreadable(entry.name, error)
    return decode_image(content, entry.name, max_pixels, allow_truncated)


def resize_entry(
    entry: Entry, resizing: Resizing, *, max_pixels: int, allow_truncated: bool = False
) -> Decoded | Skipped:
    """Return the resized image of one entry, or why there is none; limits as `decode_image`."""
    with one_image():
        found = load_entry(entry, max_pixels, allow_truncated)
        return found if isinstance(found, Skipped) else _resize(found, resizing)


def _resize(found: DecodedImage, resizing: Resizing) -> Decoded:
    if resizing.image_size is None:
        resizing = replace(resizing, image_size=default_size(found.image.height, found.image.width))
    return _decoded(resize_pillow(found.image, resizing), found)


def _decoded(image: Image.Image, found: DecodedImage) -> Decoded:
    size = (found.image.height, found.image.width)
    return Decoded(from_pillow(image), found.notes, size, found.format, found.mode)

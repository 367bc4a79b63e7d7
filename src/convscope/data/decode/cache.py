"""Decoded images on disk, so that a source is decoded once: the second use maps them into memory.

There is one cache file for each source (folder, archive or CSV) and way of decoding and resizing; its key is a hash of
both, of the versions of the decoders and of our own decoding sources:

    pixels, uint8 [N, S, S, C] | index, JSON | bytes of the index, 8 | blake2b of the index, 16 | magic, 8

Each image is found by its path and its stamp: size, time of change and inode times in ns, as the file system reports
them. An image that differs in any of these, or whose pixels no longer have their checksum, is decoded again; refusals
and notes are saved as well.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import astuple, dataclass, field
from functools import cache
from itertools import chain, compress
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import features

from convscope.config import DataConfig
from convscope.cpu import map_slices
from convscope.data.decode.decode import Decoded
from convscope.data.decode.files import Entry, Listing, Stamp
from convscope.data.decode.resize import default_size, resizing_of
from convscope.results.prediction import Skipped
from convscope.storage.cache import cached_file, save_cached
from convscope.storage.files import Stream

_MAGIC = b"cvspix02"
_TAIL = struct.Struct("<Q16s8s")

BLOCK_BYTES = 2**20
"""Each block of pixels of this size has a checksum."""

Key = tuple[str, Stamp]
"""Path and stamp of a file."""


@dataclass(frozen=True)
class DecodeCache:
    """What a cache file holds.

    Args:
        pixels: uint8 [N, S, S, C], mapped from disk and read-only.
        accepted: one for each row of `pixels`, in this order; its image is a view of that row.
        archive: stamp of an archive that is cached whole, and what it holds besides images: it need not be read again.
    """

    pixels: NDArray[np.uint8]
    accepted: Mapping[Key, Decoded] = field(default_factory=dict)
    refused: Mapping[Key, Skipped] = field(default_factory=dict)
    archive: tuple[Stamp, Listing] | None = None

    def verdict(self, entry: Entry) -> Decoded | Skipped | None:
        """Return what decoding gave for a file, None where it has to be decoded."""
        key = entry.name, entry.stamp
        return (self.accepted.get(key) or self.refused.get(key)) if entry.stamp else None

    def is_of(self, entries: list[Entry]) -> bool:
        """Return whether exactly these files are cached, unchanged."""
        return {(entry.name, entry.stamp) for entry in entries} == self.accepted.keys() | self.refused.keys()

    def drop_resized(self, config: DataConfig) -> DecodeCache:
        """Return this without the images that were resized to the size of others in the source, which may be gone."""
        if config.image_size is not None:
            return self
        own = {key: item for key, item in self.accepted.items() if len(item.image) == default_size(*item.source_size)}
        return self if len(own) == len(self.accepted) else DecodeCache(NOTHING.pixels, own, self.refused)

    def entries(self) -> list[Entry]:
        """Return the files of an archive that is cached whole; none of them needs to be read."""
        return [Entry(name, 0, bytes, stamp) for name, stamp in (*self.accepted, *self.refused)]


NOTHING = DecodeCache(np.empty((0, 0, 0, 3), np.uint8))


def load_cache(config: DataConfig) -> DecodeCache:
    """Return what is cached of the source for this way of decoding; NOTHING if there is none or it is damaged."""
    try:
        path = cached_file("images", _cache_key(config))
        return NOTHING if path is None else _read(path)
    except (OSError, ValueError, LookupError, TypeError):
        return NOTHING


def save_cache(config: DataConfig, decoded: DecodeCache) -> None:
    """Replace what was cached of the source; nothing in `decoded` may be Unread, as another try may succeed."""
    tree: dict[str, Any] = {
        "shape": decoded.pixels.shape,
        "accepted": [
            (key, image.notes, image.source_size, image.format, image.mode) for key, image in decoded.accepted.items()
        ],
        "checksums": checksums(decoded.pixels),
        "refused": [(key, astuple(verdict)) for key, verdict in decoded.refused.items()],
        "archive": None,
    }
    if decoded.archive is not None:
        stamp, listing = decoded.archive
        skipped = [astuple(item) for item in listing.skipped]
        tree["archive"] = (stamp, sorted(listing.folders), skipped, listing.ignored)
    index = json.dumps(tree).encode()
    tail = _TAIL.pack(len(index), hashlib.blake2b(index, digest_size=16).digest(), _MAGIC)
    pixels = np.ascontiguousarray(decoded.pixels).reshape(-1).data
    content = Stream(len(pixels) + len(index) + len(tail), lambda: (pixels, index, tail))
    with suppress(OSError):
        save_cached("images", _cache_key(config), content)


def _cache_key(config: DataConfig) -> str:
    """Return a hash of the source and of the way its images are decoded; raises OSError where either is unknown."""
    source = str(Path(config.source).resolve())
    chosen = None if config.per_class is None else (config.per_class, config.split_seed)
    parts = (source, resizing_of(config), config.max_pixels, config.allow_truncated, chosen, decoder_version())
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


@cache
def decoder_version() -> str:
    """Return what the pixels of a decoded file depend on besides the file: libraries and our own sources."""
    libraries = [PIL.__version__, *(features.version(name) for name in ("libjpeg_turbo", "jpg", "zlib", "webp"))]
    sources = [path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))]
    return hashlib.sha256(repr(libraries).encode() + b"\0".join(sources)).hexdigest()[:16]


def checksums(pixels: NDArray[np.uint8]) -> list[int]:
    """Return the sum of each block as numbers of 64 bits: any flaw of the disk shows, at the speed of the memory."""
    flat = np.ascontiguousarray(pixels).reshape(-1)

    def sum_blocks(chosen: slice) -> list[int]:
        mine = flat[chosen]
        blocks = [mine[start : start + BLOCK_BYTES] for start in range(0, len(mine), BLOCK_BYTES)]
        return [
            int(each[: len(each) & ~7].view(np.uint64).sum()) + int(each[len(each) & ~7 :].sum()) for each in blocks
        ]

    return list(chain.from_iterable(map_slices(sum_blocks, len(flat), size=16 * BLOCK_BYTES)))


def _intact(pixels: NDArray[np.uint8], expected: list[int]) -> list[bool]:
    """Return for each image whether the blocks that it lies in have their sums."""
    block_is_good = [found == sum_ for found, sum_ in zip(checksums(pixels), expected, strict=True)]
    size = pixels[:1].nbytes
    return [
        all(block_is_good[i * size // BLOCK_BYTES : ((i + 1) * size - 1) // BLOCK_BYTES + 1])
        for i in range(len(pixels))
    ]


def _read(path: Path) -> DecodeCache:
    """Return what a cache file holds; raises OSError, ValueError, LookupError or TypeError where it is damaged."""
    with path.open("rb") as file:
        end = file.seek(-_TAIL.size, os.SEEK_END)
        length, digest, magic = _TAIL.unpack(file.read())
        if magic != _MAGIC or length > end:
            raise ValueError("not a cache file")
        file.seek(end - length)
        content = file.read(length)
    if hashlib.blake2b(content, digest_size=16).digest() != digest:
        raise ValueError("damaged index")
    index: dict[str, Any] = json.loads(content)
    shape = tuple(index["shape"])
    if int(np.prod(shape)) != end - length or len(index["accepted"]) != shape[0]:
        raise ValueError("pixels are missing")
    pixels = np.asarray(np.memmap(path, np.uint8, "r", shape=shape)) if shape[0] else np.empty(shape, np.uint8)
    accepted = {
        (name, tuple(stamp)): Decoded(image, tuple(notes), (height, width), format_, mode)
        for image, ((name, stamp), notes, (height, width), format_, mode) in zip(pixels, index["accepted"], strict=True)
    }
    refused = {(name, tuple(stamp)): Skipped(*verdict) for (name, stamp), verdict in index["refused"]}
    if not all(intact := _intact(pixels, index["checksums"])):
        return DecodeCache(NOTHING.pixels, dict(compress(accepted.items(), intact)), refused)
    archive = None
    if index["archive"] is not None:
        stamp, folders, skipped, ignored = index["archive"]
        archive = tuple(stamp), Listing(set(folders), [Skipped(*item) for item in skipped], ignored)
    return DecodeCache(pixels, accepted, refused, archive)

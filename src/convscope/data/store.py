"""Decoded pictures on disk, so that a source is decoded once: the second use maps them into memory.

A store is one file for a source (folder, archive or CSV) and a way of decoding and fitting; its name is a hash of both,
of the versions of the decoders and of our own decoding sources. It lies in the folder `pictures` of the cache:

    pixels, uint8 [N, S, S, C] | index, JSON | bytes of the index, 8 | blake2b of the index, 16 | magic, 8

Each picture is kept under its path and its stamp: size, time of change and inode times in ns, as the file system tells
them. What differs in any of it is decoded again; refusals and notes are kept as well. The file is written beside its
place, synced and renamed. A store that cannot be read or written is done without: it saves time and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import features

from convscope.config import DataConfig
from convscope.data.intake import Decoded, Entry, Stamp, fit_of, own_size, printable
from convscope.download import cache_folder
from convscope.errors import DataError
from convscope.pictures import Skipped

MAX_STORE_BYTES = 4 * 2**30
"""All stores together; the ones used longest ago are deleted beyond it."""
FREE_DISK_SHARE = 0.5
"""A store may take at most so much of what is free on the disk."""

_MAGIC = b"cvspix01"
_TAIL = struct.Struct("<Q16s8s")
_DECODING_SOURCES = ("decoding.py", "formats.py", "intake.py", "store.py")


Accepted = tuple[str, Stamp, Decoded]
Refused = tuple[str, Stamp, Skipped]


@dataclass(frozen=True)
class Contents:
    """What an archive holds besides pictures, as its reader met it: kept so that it need not be read again."""

    stamp: Stamp
    folders: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    ignored: int


@dataclass(frozen=True)
class Kept:
    """What a store holds.

    Args:
        pixels: uint8 [N, S, S, C], mapped from disk and read-only.
        accepted: one for each row of `pixels`, its picture being a view of that row.
        contents: of an archive that is kept whole.
    """

    pixels: NDArray[np.uint8]
    accepted: tuple[Accepted, ...] = ()
    refused: tuple[Refused, ...] = ()
    contents: Contents | None = None

    @cached_property
    def _verdicts(self) -> dict[tuple[str, Stamp], Decoded | Skipped]:
        found: dict[tuple[str, Stamp], Decoded | Skipped] = {(name, stamp): item for name, stamp, item in self.accepted}
        return found | {(name, stamp): item for name, stamp, item in self.refused}

    def verdict(self, entry: Entry) -> Decoded | Skipped | None:
        """Return what is known of a file, None where it has to be decoded."""
        return self._verdicts.get((entry.name, entry.stamp)) if entry.stamp else None

    def is_of(self, entries: list[Entry]) -> bool:
        """Return whether these are the files that are kept, unchanged."""
        return {(entry.name, entry.stamp) for entry in entries} == self._verdicts.keys()

    def without_borrowed_sizes(self, config: DataConfig) -> Kept:
        """Return this without the pictures that have the size of others in the source, which may have gone."""
        if config.image_size is not None:
            return self
        own = [item for item in self.accepted if len(item[2].image) == own_size(*item[2].source_size)]
        return self if len(own) == len(self.accepted) else Kept(NOTHING.pixels, tuple(own), self.refused)

    def entries(self) -> list[Entry]:
        """Return the files of an archive that is kept whole; none of them needs to be read."""
        return [Entry(name, 0, bytes, stamp) for name, stamp, _ in (*self.accepted, *self.refused)]


NOTHING = Kept(np.empty((0, 0, 0, 3), np.uint8))


def load_kept(config: DataConfig) -> Kept:
    """Return what is kept of the source for this way of decoding; NOTHING where there is no store or it is damaged."""
    path = _store_path(config)
    if path is None:
        return NOTHING
    try:
        kept = _read(path)
        os.utime(path)  # used just now
    except (OSError, ValueError, LookupError, TypeError):
        return NOTHING
    return kept


def save_kept(config: DataConfig, kept: Kept) -> None:
    """Keep these verdicts in place of what was kept before; none of them is Unread, which another try may change."""
    path = _store_path(config)
    if path is None:
        return
    contents = kept.contents
    index = {
        "shape": kept.pixels.shape,
        "accepted": [
            (name, stamp, item.notes, item.source_size, item.format, item.mode) for name, stamp, item in kept.accepted
        ],
        "refused": [(name, stamp, item.reason, item.remedy) for name, stamp, item in kept.refused],
        "contents": contents
        and (
            contents.stamp,
            contents.folders,
            [(item.file, item.reason, item.remedy) for item in contents.skipped],
            contents.ignored,
        ),
    }
    with suppress(OSError):  # a full disk or a read-only folder must not end what needs neither
        _write(path, np.ascontiguousarray(kept.pixels), json.dumps(index).encode())


def _store_path(config: DataConfig) -> Path | None:
    """Return where the store of a source lies, None where there is no cache folder."""
    try:
        folder = cache_folder("pictures", otherwise="go on without")
        source = str(Path(config.source).resolve())
        key = (source, fit_of(config), config.max_pixels, config.allow_truncated, decoder_version())
    except (DataError, OSError):
        return None
    return folder / f"{hashlib.sha256(repr(key).encode()).hexdigest()[:32]}.pictures"


@cache
def decoder_version() -> str:
    """Return what the pixels of a decoded file depend on besides the file: libraries and our own sources.

    Raises:
        OSError: our sources cannot be read.
    """
    libraries = [PIL.__version__, *(features.version(name) for name in ("libjpeg_turbo", "jpg", "zlib", "webp"))]
    sources = [Path(__file__).with_name(name).read_bytes() for name in _DECODING_SOURCES]
    return hashlib.sha256(repr(libraries).encode() + b"\0".join(sources)).hexdigest()[:16]


def _read(path: Path) -> Kept:
    """Return what a store file holds; raises OSError, ValueError, LookupError or TypeError where it is not whole."""
    with path.open("rb") as file:
        end = file.seek(-_TAIL.size, os.SEEK_END)
        length, digest, magic = _TAIL.unpack(file.read())
        if magic != _MAGIC or length > end:
            raise ValueError("not a store")
        file.seek(end - length)
        content = file.read(length)
    if hashlib.blake2b(content, digest_size=16).digest() != digest:
        raise ValueError("damaged index")
    index: dict[str, Any] = json.loads(content)
    shape = tuple(index["shape"])
    if int(np.prod(shape)) != end - length or len(index["accepted"]) != shape[0]:
        raise ValueError("pixels are missing")
    pixels = np.asarray(np.memmap(path, np.uint8, "r", shape=shape)) if shape[0] else np.empty(shape, np.uint8)
    accepted, contents = [], None
    for row, (name, stamp, notes, (height, width), format_, mode) in enumerate(index["accepted"]):
        accepted.append((name, tuple(stamp), Decoded(pixels[row], tuple(notes), (height, width), format_, mode)))
    refused = [
        (name, tuple(stamp), Skipped(printable(name), reason, remedy))
        for name, stamp, reason, remedy in index["refused"]
    ]
    if index["contents"] is not None:
        stamp, folders, skipped, ignored = index["contents"]
        contents = Contents(tuple(stamp), tuple(folders), tuple(Skipped(*item) for item in skipped), ignored)
    return Kept(pixels, tuple(accepted), tuple(refused), contents)


def _write(path: Path, pixels: NDArray[np.uint8], index: bytes) -> None:
    """Write a store file, whole or not at all, and delete old ones beyond MAX_STORE_BYTES."""
    size = pixels.nbytes + len(index) + _TAIL.size
    path.parent.mkdir(parents=True, exist_ok=True)
    if size > min(MAX_STORE_BYTES, FREE_DISK_SHARE * shutil.disk_usage(path.parent).free):
        return
    handle, temporary = tempfile.mkstemp(suffix=".tmp", dir=path.parent)  # for the user's eyes only, as photos are
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(pixels.data)
            file.write(index)
            file.write(_TAIL.pack(len(index), hashlib.blake2b(index, digest_size=16).digest(), _MAGIC))
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(temporary).unlink()
        raise
    _delete_old(path.parent)


def _delete_old(folder: Path) -> None:
    """Delete the stores used longest ago until all together are small enough."""
    found = sorted(((file.stat().st_mtime_ns, file.stat().st_size, file) for file in folder.iterdir()), reverse=True)
    total = 0
    for _, size, file in found:
        total += size
        if total > MAX_STORE_BYTES:
            file.unlink(missing_ok=True)

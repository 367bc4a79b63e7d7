"""The files of a source: what identifies them, which are not decoded, and how many are read in parallel."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import TypeVar

from convscope.cpu import available_processors, map_ahead
from convscope.data.names import printable
from convscope.results.prediction import Skipped

MAX_FILE_BYTES = 256 * 2**20
"""Larger files are not read."""

BATCH_ENTRIES = 64
"""Images that a decoding thread takes at a time: handing them over then costs little compared with a tiny JPEG."""

BATCH_BYTES = 8 * 2**20
"""Encoded bytes after which a batch is full, however few images it has."""

T = TypeVar("T")


class Unread(Skipped):
    """A file that the system did not let us read; another try may succeed."""


Stamp = tuple[int, ...]
"""Changes when a file does: size in bytes, modification and inode times in ns; () is unknown."""


def stamp_of(status: os.stat_result) -> Stamp:
    """Return the stamp of a file; the inode time catches a change that sets the modification time back."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


@dataclass(frozen=True, slots=True)
class Entry:
    """A file to decode. `read` returns its content or raises OSError; it is called in another thread.

    Args:
        name: path relative to the source, components divided by "/", as the source spells it.
        size: bytes of the content, as announced before reading.
        stamp: of the file, or of the archive that holds it.
    """

    name: str
    size: int
    read: Callable[[], bytes]
    stamp: Stamp = ()


@dataclass
class Listing:
    """What a source holds besides files to decode; filled while the source is read.

    Folders are paths below the source, components divided by "/"; files that are never images are only counted.
    Folders on disk that convscope wrote are not read.
    """

    folders: set[str] = field(default_factory=set)
    skipped: list[Skipped] = field(default_factory=list)
    ignored: int = 0
    written: set[str] = field(default_factory=set)


def map_entries(
    entries: Iterable[Entry],
    work: Callable[[list[Entry]], list[T]],
    *,
    batch_size: int = BATCH_ENTRIES,
    threads: int | None = None,
) -> Iterator[T]:
    """Yield what `work` returns for each entry, in order; batches of at most `batch_size` are processed in parallel.

    At most a few batches are in memory at any time. None takes a thread for each processor this process may use.
    """
    threads = threads or available_processors()
    return chain.from_iterable(map_ahead(work, _batches(entries, batch_size), threads=threads, ahead=2 * threads))


def unreadable(name: str, error: OSError | MemoryError) -> Unread:
    """Return the verdict on a file or folder that the system did not let us read."""
    if isinstance(error, PermissionError):
        return Unread(printable(name), "permission denied", "give yourself the right to read it (chmod u+rX)")
    if isinstance(error, FileNotFoundError):
        return Unread(printable(name), "not there any more", "put it back, or remove the link that points to it")
    detail = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return Unread(printable(name), f"cannot be read ({printable(detail)})", "copy it again from where it came")


def _batches(entries: Iterable[Entry], most: int) -> Iterator[list[Entry]]:
    """Yield the entries in lists of at most `most`, bounded in bytes."""
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

"""Pictures in class folders on disk."""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from convscope.config import DataConfig
from convscope.data.gather import gather
from convscope.data.image_set import ImageSet
from convscope.data.intake import Entry, is_ignored, printable, stamp_of, unreadable
from convscope.data.layout import Listing
from convscope.data.store import load_kept
from convscope.errors import DataError
from convscope.pictures import Skipped
from convscope.progress import OnProgress, ignore_progress

_KINDS = {stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket", stat.S_IFCHR: "device", stat.S_IFBLK: "device"}


def load_folder(config: DataConfig, on_progress: OnProgress = ignore_progress) -> ImageSet:
    """Return the pictures below the folder `config.source`; `layout` says which class and part each belongs to.

    Nothing is written. Files that are no regular files are listed and never opened. Links are followed, but no folder
    is read twice. What cannot be read is listed.

    Raises:
        DataError: the folder cannot be read, or is not laid out in two or more classes that have pictures.
    """
    root = Path(config.source)
    listing = Listing()
    try:
        entries = sorted(walk_folder(root, listing), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(
            f"folder {printable(str(root))} cannot be read ({error.strerror}); check its path and rights"
        ) from error
    name = printable(root.resolve().name or str(root))
    kept = load_kept(config)
    if not kept.is_of(entries):
        kept = kept.without_borrowed_sizes(config)
    return gather(name, config, entries, listing, on_progress, total=len(entries), kept=kept)


def walk_folder(root: Path, listing: Listing) -> Iterator[Entry]:
    """Yield the regular files below `root`; folders behind links come last, so that a folder keeps its own name.

    Raises:
        OSError: `root` itself cannot be read.
    """
    own = [""]
    linked: deque[str] = deque()
    seen: set[tuple[int, int]] = set()
    while own or linked:
        folder = own.pop() if own else linked.popleft()
        path = root / folder
        try:
            status = path.stat()
            if (status.st_dev, status.st_ino) in seen:
                listing.skipped.append(
                    Skipped(printable(folder), "link to a folder that is read already", "remove the link")
                )
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(path) as found:
                items = sorted(found, key=lambda item: item.name)
        except OSError as error:
            if not folder:
                raise
            listing.folders.add(tuple(folder.split("/")))
            listing.skipped.append(unreadable(folder, error))
            continue
        if folder:
            listing.folders.add(tuple(folder.split("/")))
        for item in items:
            name = f"{folder}/{item.name}" if folder else item.name
            if is_ignored(item.name):
                listing.ignored += _count_files(item)
            elif item.is_dir(follow_symlinks=False):
                own.append(name)
            else:
                found_file = look_at(item.path, name, item.stat)
                if isinstance(found_file, Entry):
                    yield found_file
                elif isinstance(found_file, Skipped):
                    listing.skipped.append(found_file)
                else:
                    linked.append(name)


def look_at(path: str, name: str, read_status: Callable[[], os.stat_result]) -> Entry | Skipped | None:
    """Return a regular file as an entry, None for a folder, anything else as listed; nothing is opened."""
    try:
        status = read_status()
    except OSError as error:
        return unreadable(name, error)
    if stat.S_ISDIR(status.st_mode):
        return None
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "special file")
        return Skipped(printable(name), f"not a regular file ({kind})", "remove it from the folder of pictures")
    return Entry(name, status.st_size, partial(_read, path), stamp_of(status))


def _read(path: str) -> bytes:
    return Path(path).read_bytes()


def _count_files(item: os.DirEntry[str]) -> int:
    """Return 1 for a file, and the number of files below a folder."""
    if not item.is_dir(follow_symlinks=False):
        return 1
    return sum(len(files) for _, _, files in os.walk(item.path))

"""The files below a folder on disk."""

import os
import stat
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from convscope.data.decode.files import MAX_FILE_BYTES, Entry, Listing, stamp_of, unreadable
from convscope.data.names import is_ignored, is_written, printable
from convscope.errors import DataError
from convscope.results.prediction import Skipped
from convscope.storage.files import read_limited

_KINDS = {stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket", stat.S_IFCHR: "device", stat.S_IFBLK: "device"}


def list_folder(root: Path, listing: Listing) -> list[Entry]:
    """Return the regular files below a folder, sorted by name; everything else goes into the listing.

    Nothing is opened but folders. Links are followed, but no folder is read twice.

    Raises:
        DataError: the folder itself cannot be read.
    """
    try:
        return sorted(_walk(root, listing), key=lambda entry: entry.name)
    except OSError as error:
        name = printable(str(root))
        raise DataError(f"folder {name} cannot be read ({error.strerror}); check its path and rights") from error


def _walk(root: Path, listing: Listing) -> Iterator[Entry]:
    """Yield the regular files; folders behind links come last, so that a folder keeps its own name."""
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
                    Skipped(printable(folder), "link to a folder that was read already", "remove the link")
                )
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(path) as found:
                items = sorted(found, key=lambda item: item.name)
        except OSError as error:
            if not folder:
                raise
            listing.folders.add(folder)
            listing.skipped.append(unreadable(folder, error))
            continue
        if folder and is_written({item.name for item in items}):
            listing.written.add(folder)
            listing.ignored += sum(map(_count_files, items))
            continue
        if folder:
            listing.folders.add(folder)
        for item in items:
            name = f"{folder}/{item.name}" if folder else item.name
            if is_ignored(item.name):
                listing.ignored += _count_files(item)
            elif item.is_dir(follow_symlinks=False):
                own.append(name)
            else:
                file = entry_of(item.path, name, item.stat)
                if isinstance(file, Entry):
                    yield file
                elif isinstance(file, Skipped):
                    listing.skipped.append(file)
                else:
                    linked.append(name)


def entry_of(path: str, name: str, read_status: Callable[[], os.stat_result]) -> Entry | Skipped | None:
    """Return the entry of a regular file, None for a folder, and why anything else is skipped; nothing is opened."""
    try:
        status = read_status()
    except OSError as error:
        return unreadable(name, error)
    if stat.S_ISDIR(status.st_mode):
        return None
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "special file")
        return Skipped(printable(name), f"not a regular file ({kind})", "remove it from the folder of images")
    return Entry(name, status.st_size, partial(read_limited, Path(path), MAX_FILE_BYTES), stamp_of(status))


def _count_files(item: os.DirEntry[str]) -> int:
    """Return 1 for a file, and the number of files below a folder."""
    if not item.is_dir(follow_symlinks=False):
        return 1
    return sum(len(files) for _, _, files in os.walk(item.path))

"""Files that can be made or downloaded again, in the user's cache folder; one folder for each kind.

Decoded images, features and exported models save time and nothing else: where the cache cannot be read or written,
everything goes on without it. Beyond a cap for each kind the files that were used longest ago are deleted. Downloads
(trained weights, data sets) are never deleted here, as they cost a download; `storage.download` writes them.
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path
from stat import S_ISREG

import platformdirs

from convscope.errors import DataError, RunError
from convscope.storage.files import PRIVATE, Content, content_bytes, write_bytes

MAX_BYTES = {"images": 4 * 2**30, "features": 4 * 2**30, "models": 2**30}
"""Cap on all files of a kind together; kinds that are not here are downloads and have none."""
SUFFIXES = {"images": ".images", "features": ".npy", "models": ".onnx"}
FREE_DISK_SHARE = 0.5
"""Fraction of the free disk space that one more file may take at most."""
PRIVATE_FOLDER = 0o700


def cache_folder(kind: str, *, otherwise: str) -> Path:
    """Return the folder of a kind of files: a key of MAX_BYTES, "weights" or a data set; it need not exist yet.

    Raises:
        DataError: the user has no home folder; `otherwise` is what else can be done, "name the folder with --data-dir".
    """
    try:
        folder = Path(platformdirs.user_cache_dir("convscope")) / kind
    except RuntimeError:  # newer versions of platformdirs; older ones leave the ~ as it is
        folder = Path("~")
    if not folder.is_absolute():
        raise DataError(
            f"no cache folder for {kind}: the home folder is not known (HOME is not set); "
            f"set HOME or XDG_CACHE_HOME, or {otherwise}"
        )
    return folder


def cached_file(kind: str, key: str) -> Path | None:
    """Return the file saved under a key, which now counts as just used; None where there is none.

    The key is a part of the file's name, and has to change with everything that the content depends on.
    """
    try:
        path = _path(kind, key)
        if not path.is_file():
            return None
    except (DataError, OSError):
        return None
    with suppress(OSError):  # somebody else's file, which may be read all the same
        os.utime(path)
    return path


def save_cached(kind: str, key: str, content: Content) -> bool:
    """Save a file for later, readable by its owner only, and delete old ones beyond the cap.

    Returns whether it was saved: not where the file cannot be written, is larger than the cap, or would take too much
    of the disk.
    """
    try:
        path = _path(kind, key)
        create_private_folder(path.parent)
        free_bytes = shutil.disk_usage(path.parent).free
        if content_bytes(content) > min(MAX_BYTES[kind], FREE_DISK_SHARE * free_bytes):
            return False
        write_bytes(path, content, mode=PRIVATE)
    except (DataError, OSError, RunError):
        return False
    prune(kind)
    return True


def create_private_folder(folder: Path) -> None:
    """Create a folder, and those above it that are missing, for their owner only; raises OSError."""
    if not folder.exists():
        create_private_folder(folder.parent)
        folder.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)


def prune(kind: str) -> None:
    """Delete the files of a kind that were used longest ago until the rest is within the cap.

    Folders, links and files of others are left alone.
    """
    found, total = [], 0
    with suppress(DataError, OSError):
        for path in cache_folder(kind, otherwise="go on without it").iterdir():
            if path.suffix in (SUFFIXES[kind], ".tmp"):  # .tmp: what a killed process had begun to write
                with suppress(OSError):
                    status = path.lstat()
                    if S_ISREG(status.st_mode):
                        found.append((status.st_mtime_ns, status.st_size, path))
    for _, num_bytes, path in sorted(found, reverse=True):
        total += num_bytes
        if total > MAX_BYTES[kind]:
            with suppress(OSError):  # another process was faster, or has it open on Windows
                path.unlink()


def _path(kind: str, key: str) -> Path:
    return cache_folder(kind, otherwise="go on without it") / f"{key}{SUFFIXES[kind]}"

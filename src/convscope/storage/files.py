"""Files that are written whole or not at all, and read back: bytes, arrays, JSON, CSV."""

import csv
import errno
import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convscope.errors import RunError

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "'")

ANY_USER = 0o666
"""Permissions of a new file, less those that the user's umask takes away."""
PRIVATE = 0o600
"""Permissions of a file that only its owner may read, for example a cached photo."""

_FORBIDDEN_IN_NAMES = str.maketrans(dict.fromkeys('/\\:*?"<>| ', "-"))


Chunk = bytes | memoryview


@dataclass(frozen=True)
class Stream:
    """The content of a file, piece by piece from the beginning, so that memory need not hold it twice."""

    num_bytes: int
    chunks: Callable[[], Iterable[Chunk]]


Content = bytes | Stream


def write_bytes(path: Path, content: Content, *, mode: int = ANY_USER) -> None:
    """Write a file so that after any crash it holds the old content or the new, never a mixture.

    Raises:
        RunError: the disk is full or the folder cannot be written; names path, needed and free bytes.
    """
    temporary = path.with_name(f".{os.urandom(8).hex()}.tmp")  # nobody can put a link there beforehand
    try:
        write_and_sync(temporary, content, mode=mode)
        move_into_place(temporary, path)
    except OSError as error:
        raise write_error(path, content_bytes(content), error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_and_sync(
    path: Path, content: Content, *, mode: int = ANY_USER, on_chunk: Callable[[Chunk], object] | None = None
) -> None:
    """Write a file through to the disk, handing each piece to `on_chunk`, for example a hash's `update`.

    Raises:
        OSError: it exists already, perhaps as a link, or cannot be written.
    """
    with open(path, "xb", opener=partial(os.open, mode=mode)) as file:
        for chunk in content.chunks() if isinstance(content, Stream) else (content,):
            file.write(chunk)
            if on_chunk is not None:
                on_chunk(chunk)
        file.flush()
        os.fsync(file.fileno())


def move_into_place(temporary: Path, final: Path) -> None:
    """Give a file or folder that is on the disk its final name, and write that through to the disk as well."""
    temporary.replace(final)
    sync_folder(final.parent)


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Write an array as a .npy file."""
    write_bytes(path, array_content(array))


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays by name as a compressed .npz file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # its own option would be a bool
    write_bytes(path, buffer.getvalue())


def array_content(array: NDArray[Any]) -> Stream:
    """Return the content of a .npy file; a contiguous array is written from its own memory, one of objects refused."""
    if array.dtype.hasobject:
        raise ValueError(f"an array of {array.dtype} would have to be pickled; expected numbers or text")
    header = io.BytesIO()
    rows = array if array.flags.c_contiguous else array.copy(order="C")
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(rows))
    start = header.getvalue()
    return Stream(len(start) + rows.nbytes, lambda: (start, rows.reshape(-1).view(np.uint8).data))


def write_json(path: Path, tree: Any) -> None:  # noqa: ANN401
    """Write a JSON file. NaN is refused: it is not JSON."""
    write_bytes(path, (json.dumps(tree, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode())


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file with a header row."""
    write_bytes(path, csv_bytes(columns, rows))


def csv_bytes(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """Return the content of a CSV file with a header row, UTF-8.

    Text that a spreadsheet would compute, such as `=1+1`, gets an apostrophe in front, which `read_csv` removes.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([f"'{cell}" if _is_formula(cell) else cell for cell in row] for row in rows)
    return text.getvalue().encode()


def _is_formula(cell: object) -> bool:
    """Whether a spreadsheet would take the cell for a formula, or `read_csv` its apostrophe for one of ours."""
    if not isinstance(cell, str) or not cell.startswith(FORMULA_STARTS):
        return False
    try:
        float(cell)
    except ValueError:
        return True
    return False  # a class may be called -1


def read_json(path: Path) -> Any:  # noqa: ANN401
    """Return the content of a JSON file of a run; raises RunError if there is none or it is not JSON."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise RunError(
            f"{path} does not exist; {path.parent} is not a (finished) run folder. `convscope runs` lists those in runs"
        ) from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read as JSON: {error}") from error


def read_csv(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file of a run, one dict a row."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [
                {name: cell.removeprefix("'") if _is_formula(cell) else cell for name, cell in row.items()}
                for row in csv.DictReader(file)
            ]
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from error


def file_name(name: str) -> str:
    """Return the name with a dash for each character that some system forbids in file names."""
    return name.translate(_FORBIDDEN_IN_NAMES)


def create_folder(folder: Path) -> None:
    """Create a folder for runs and what is made from them, unless it exists; raises RunError if it cannot."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(folder, 0, error) from error
    write_bytes(folder / ".gitignore", b"*\n")  # a run inside a checkout is not source code


def content_bytes(content: Content) -> int:
    """Return the size of a file's content."""
    return content.num_bytes if isinstance(content, Stream) else len(content)


def sync_folder(folder: Path) -> None:
    """Write a folder's entries through to the disk."""
    if sys.platform == "win32":
        return  # Windows cannot open a folder; NTFS journals the rename
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_error(path: Path, needed_bytes: int, error: OSError) -> RunError:
    """Return the error for a file that cannot be written: path, needed and free bytes."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return RunError(
            f"cannot write {path}: {error.strerror or error}; choose a folder that can be written with --out"
        )
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        free = f"{shutil.disk_usage(folder).free:,} bytes free"
    except OSError:
        free = "free space unknown"
    return RunError(
        f"cannot write {path}: {error.strerror or error} (needs {needed_bytes:,} bytes, {free} in {folder}); "
        "make room or choose a folder that can be written with --out"
    )

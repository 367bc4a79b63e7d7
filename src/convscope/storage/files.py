"""Files that are written whole or not at all, and read back: bytes, arrays, JSON, CSV."""

import csv
import errno
import io
import json
import os
import shutil
import stat
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from math import isfinite, prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convscope.errors import RunError
from convscope.results.text import printable
from convscope.storage.schemas import COLUMNS, check_record, damaged

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "'")

ANY_USER = 0o666
"""Permissions of a new file, less those that the user's umask takes away."""
PRIVATE = 0o600
"""Permissions of a file that only its owner may read, for example a cached photo."""

MAX_READ_BYTES = 2**28
"""Largest JSON or CSV file that is read; split.csv of a million images has a fifth."""
MAX_ARRAY_BYTES = 2**30
"""Most bytes of the arrays of one file."""
_ARRAY_DAMAGE = (
    *(ValueError, LookupError, TypeError, SyntaxError, EOFError, MemoryError, OverflowError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error, struct.error),
)
"""What damaged arrays and archives of them raise, besides OSError; RuntimeError where one is encrypted."""

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
    """Write a JSON file. NaN is refused: it is not JSON. A byte of a path that does not decode is escaped."""
    text = json.dumps(tree, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file with a header row."""
    write_bytes(path, csv_bytes(columns, rows))


def csv_bytes(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """Return the content of a CSV file with a header row, UTF-8.

    Text that a spreadsheet would compute, such as `=1+1`, gets an apostrophe in front, which `read_csv` removes.
    Control characters, which names and classes of ours never have, become escapes.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(map(_cell, row) for row in rows)
    return text.getvalue().encode()


def _cell(value: object) -> object:
    if isinstance(value, str) and not value.isprintable():
        value = "\t".join(map(printable, value.split("\t")))
    return f"'{value}" if _is_formula(value) else value


def _is_formula(cell: object) -> bool:
    """Whether a spreadsheet would take the cell for a formula, or `read_csv` its apostrophe for one of ours."""
    if not isinstance(cell, str) or not cell.startswith(FORMULA_STARTS):
        return False
    try:
        float(cell)
    except ValueError:
        return True
    return False  # a class may be called -1


# ---------------------------------------------------------------- reading


@contextmanager
def open_regular(path: Path) -> Iterator[io.BufferedReader]:
    """Open a file to read; a FIFO, which would wait for a writer for ever, a device or a folder raises OSError."""
    with open(path, "rb", opener=_open_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        yield file


def _open_at_once(name: str, flags: int) -> int:
    return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))


def read_limited(path: Path, limit: int = MAX_READ_BYTES) -> bytes:
    """Return the content of a regular file; one of more than `limit` bytes raises OSError."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(min(size, limit) + 1)  # not limit + 1, which would be allocated
        if size < len(content) <= limit:  # it has grown
            content += file.read(limit + 1 - len(content))
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"it has more than {limit:,} bytes", str(path))
    return content


def parse_json(content: bytes | str) -> Any:  # noqa: ANN401
    """Return the value of JSON text; raises ValueError where it is not JSON, holds NaN, or is nested too deeply."""
    try:
        return json.loads(content, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number of JSON")


def read_json(path: Path) -> Any:  # noqa: ANN401
    """Return the content of a JSON file of a run, checked by its schema; a RunError names file and value."""
    return check_record(path, read_unchecked_json(path))


def read_unchecked_json(path: Path) -> Any:  # noqa: ANN401
    """Return the content of a JSON file of a run; raises RunError if there is none or it is not JSON."""
    try:
        return parse_json(read_limited(path))
    except FileNotFoundError:
        raise RunError(
            f"{path} does not exist; {path.parent} is not a (finished) run folder. `convscope runs` lists those in runs"
        ) from None
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise RunError(f"{path} cannot be read as JSON: {error}") from error


def read_csv(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file of a run, one dict a row; raises RunError, which names file and line."""
    columns = COLUMNS.get(path.name, {})
    try:
        reader = csv.DictReader(io.StringIO(read_limited(path).decode(), newline=""), strict=True)
        missing = columns.keys() - set(reader.fieldnames or ())
        if missing:
            raise damaged(f"{path} has no column {min(missing)!r}")
        rows = []
        for row in reader:
            if None in row or None in row.values():
                raise damaged(f"{path}, line {reader.line_num}: expected {len(reader.fieldnames or ())} cells")
            for name, kind in columns.items():
                if kind is float and not _is_number(row[name]):
                    raise damaged(f"{path}, line {reader.line_num}: {name} {row[name][:40]!r} is not a finite number")
            rows.append({name: cell.removeprefix("'") if _is_formula(cell) else cell for name, cell in row.items()})
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, csv.Error) as error:
        raise damaged(f"{path} is not a CSV file ({error})") from error
    return rows


def _is_number(cell: str) -> bool:
    try:
        return isfinite(float(cell))
    except ValueError:
        return False


def read_array(path: Path) -> NDArray[Any]:
    """Return the array of a .npy file; raises RunError. A file that announces more than it holds takes no memory."""
    try:
        return _parse_array(read_limited(path, MAX_ARRAY_BYTES))
    except (OSError, *_ARRAY_DAMAGE) as error:
        raise damaged(f"{path} is not an array of numbers ({error})") from error


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of a .npz file by name; raises RunError. What is unpacked is counted, not what is announced."""
    found, left = {}, MAX_ARRAY_BYTES
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            for name in archive.namelist():
                with archive.open(name) as member:
                    content = member.read(left + 1)
                left -= len(content)
                if left < 0:
                    raise ValueError(f"it holds more than {MAX_ARRAY_BYTES:,} bytes")
                found[name.removesuffix(".npy")] = _parse_array(content)
    except (OSError, *_ARRAY_DAMAGE) as error:
        raise damaged(f"{path} does not hold arrays ({error})") from error
    return found


def _parse_array(content: bytes) -> NDArray[Any]:
    file = io.BytesIO(content)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[np.lib.format.read_magic(file)]
    try:
        shape, columns_first, dtype = read_header(file)
    except Exception as error:  # numpy's parser also raises errors of Python's tokenizer, which is slow to import
        raise ValueError(f"damaged header: {error}") from error
    if dtype.hasobject or min(shape, default=0) < 0 or prod(shape) * dtype.itemsize != len(content) - file.tell():
        raise ValueError(f"{dtype} {shape} does not fit {len(content)} bytes")
    values = np.frombuffer(bytearray(memoryview(content)[file.tell() :]), dtype)
    return values.reshape(shape, order="F" if columns_first else "C")


# ---------------------------------------------------------------- names and folders


def file_name(name: str) -> str:
    """Return the name with a dash for each character that some system forbids in file names."""
    return name.translate(_FORBIDDEN_IN_NAMES)


def create_folder(folder: Path) -> None:
    """Create a folder for runs and what is made from them, unless it exists; raises RunError if it cannot."""
    check_text(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(folder, 0, error) from error
    write_bytes(folder / ".gitignore", b"*\n")  # a run inside a checkout is not source code


def check_text(folder: Path) -> None:
    """Refuse, as a RunError, a folder whose path the files in it could not name."""
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        raise RunError(f"{printable(str(folder))} is not text that UTF-8 can hold; choose another path") from None


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

"""Pictures in class folders inside a zip or tar archive, streamed into memory; nothing is ever unpacked to disk.

What a member is called decides its class and nothing else, and a name that would lead out of the archive is listed.
An archive that is damaged, encrypted, or made to expand out of all proportion is refused as a whole: there is no
partial data set.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, Any, Self, cast

from convscope.config import DataConfig
from convscope.data.gather import gather
from convscope.data.image_set import ImageSet
from convscope.data.intake import MAX_FILE_BYTES, Entry, is_ignored, printable, stamp_of
from convscope.data.layout import Listing, folders_above
from convscope.data.store import load_kept
from convscope.errors import DataError
from convscope.pictures import Skipped
from convscope.progress import OnProgress, ignore_progress

MAX_MEMBERS = 500_000
"""Members an archive may have."""
MAX_TOTAL_BYTES = 64 * 2**30
"""Bytes its members may have in all when expanded."""
MAX_RATIO = 200
"""Expanded bytes to archive bytes; pictures are compressed already and stay below 20."""
FREE_BYTES = 16 * 2**20
"""The ratio is not looked at below this many expanded bytes: they do no harm."""
FREE_MEMBER_BYTES = 2**20
"""The same for a single member of a zip."""
MAX_HEADER_BYTES = 2**20
"""What one header of a tar member may hold, long names and extended attributes included."""

_OPENERS: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"\xfd7zXZ\0": lzma.open,
    b"BZh": bz2.open,
}
_OTHER_ARCHIVES = {b"7z\xbc\xaf\x27\x1c": "7z", b"Rar!": "RAR", b"\x28\xb5\x2f\xfd": "Zstandard"}
_DAMAGE = (
    *(zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError, zlib.error, struct.error),
    *(OSError, EOFError, ValueError, IndexError, KeyError, OverflowError, NotImplementedError, RuntimeError),
)
"""What the standard library raises for damaged archives; RuntimeError includes the RecursionError of nested headers."""
_DAMAGED_REMEDY = "no picture of it is used; get it again from where it came, or pack it again"


def load_archive(config: DataConfig, on_progress: OnProgress = ignore_progress) -> ImageSet:
    """Return the pictures inside the archive `config.source`, by the same rules as those of a folder.

    Members are read once, in the order of the archive; of an archive that the store keeps whole, none is.

    Raises:
        DataError: as `open_archive`, or it is not laid out in two or more classes that have pictures.
    """
    path, listing = Path(config.source), Listing()
    with _open(path) as file:
        stamp, kept = stamp_of(os.fstat(file.fileno())), load_kept(config)
        gather_from = partial(
            gather, printable(path.name), config, listing=listing, on_progress=on_progress, archive_stamp=stamp
        )
        if kept.contents is not None and kept.contents.stamp == stamp:
            listing.recall(kept.contents)
            return gather_from(kept.entries(), total=None, kept=kept)
        kept = kept.without_borrowed_sizes(config)
        with _members(path, file, listing) as (entries, total):
            return gather_from((replace(entry, stamp=stamp) for entry in entries), total=total, kept=kept)


@contextmanager
def open_archive(path: Path, listing: Listing) -> Iterator[tuple[Iterable[Entry], int | None]]:
    """Yield the files inside an archive, which can be read until the block ends, and their number if it is known.

    zip, tar, tar.gz, tar.xz and tar.bz2 are told apart by content.

    Raises:
        DataError: the archive is damaged, encrypted, too large when expanded or of another kind; for a tar, damage is
            met while the entries are consumed.
    """
    with _open(path) as file, _members(path, file, listing) as found:
        yield found


def _open(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as error:
        name = printable(path.name)
        raise DataError(f"{name} cannot be read ({error.strerror or error}); check its path and rights") from error


@contextmanager
def _members(path: Path, file: IO[bytes], listing: Listing) -> Iterator[tuple[Iterable[Entry], int | None]]:
    name, head = printable(path.name), file.read(512)
    if head.startswith((b"PK\3\4", b"PK\5\6")) or (not _is_tar(head) and zipfile.is_zipfile(file)):
        with _open_zip(name, file) as archive:
            entries = list(_zip_entries(archive, listing))
            yield entries, len(entries)
    else:
        yield _tar_entries(name, file, head, listing), None


def _admit(member: str, kind: str, listing: Listing, seen: set[tuple[str, ...]]) -> str | None:
    """Return the path of a member to read; anything else goes into the listing.

    Args:
        kind: "file", "folder", or what else it is.
        seen: paths of files met so far; the path is added.
    """
    parts = tuple(part for part in member.split("/") if part not in ("", "."))
    if member.startswith("/") or ".." in parts or re.match("[A-Za-z]:", member):
        listing.skipped.append(
            Skipped(printable(member), "name leads out of the archive", "pack it again with names relative to its top")
        )
    elif any(map(is_ignored, parts)):
        listing.ignored += kind != "folder"
    elif kind == "folder":
        listing.folders |= folders_above(parts)
    elif kind != "file" or not parts:
        listing.skipped.append(
            Skipped(printable(member), f"not a regular file ({kind})", "pack the file itself, not a link to it")
        )
    elif parts in seen:
        listing.skipped.append(
            Skipped(printable(member), "second member of this name", "pack the archive again with distinct names")
        )
    else:
        seen.add(parts)
        listing.folders |= folders_above(parts[:-1])
        return "/".join(parts)
    return None


# ---------------------------------------------------------------- zip


def _open_zip(name: str, file: IO[bytes]) -> zipfile.ZipFile:
    """Return the archive with its directory read and found harmless."""
    end, count = _check_directory(name, file)
    try:
        archive = zipfile.ZipFile(file)
    except _DAMAGE as error:
        raise _damaged(name, error) from error
    members = archive.infolist()
    if len(members) % 2**16 != count % 2**16:  # without zip64 the number is kept in 16 bits, and wraps
        raise _damaged(name, ValueError(f"{len(members)} members, {count} expected"))
    if any(member.flag_bits & 1 for member in members):
        raise DataError(f"{name} is encrypted; unpack it with its password and give the folder")
    _check_expansion(name, sum(member.file_size for member in members), end)
    members.sort(key=lambda member: member.header_offset)
    limits = [*(member.header_offset for member in members[1:]), end]
    for member, limit in zip(members, limits, strict=False):  # 30: bytes of a local header without its names
        if member.header_offset + 30 + member.compress_size > limit:
            raise DataError(
                f"{name}: member {printable(member.filename)} overlaps another, as in a zip bomb; {_DAMAGED_REMEDY}"
            )
    return archive


def _check_directory(name: str, file: IO[bytes]) -> tuple[int, int]:
    """Return where the central directory begins, in bytes, and its number of members, after bounding its size.

    `zipfile` would read one of any size, and make do with fewer members than there should be.

    Source: PKWARE APPNOTE 6.3.10, sections 4.3.12 to 4.3.16.
    """
    size = file.seek(0, os.SEEK_END)
    tail_start = file.seek(max(0, size - 22 - 65535 - 76))  # end record, its comment, the two zip64 records before it
    tail = file.read()
    found = tail.rfind(b"PK\5\6")
    if found < 0 or found + 22 > len(tail):
        raise DataError(f"{name} is damaged: its central directory is missing, so it is cut short; {_DAMAGED_REMEDY}")
    end, (expected, length) = tail_start + found, struct.unpack_from("<HI", tail, found + 10)
    if found >= 76 and tail[found - 20 : found - 16] == b"PK\6\7":
        end, (expected, length) = end - 76, struct.unpack_from("<QQ", tail, found - 76 + 32)
    if length > min(end, MAX_MEMBERS * 512):
        raise DataError(f"{name} is damaged: central directory of {length} bytes; {_DAMAGED_REMEDY}")
    file.seek(end - length)
    if file.read(length).count(b"PK\1\2") > MAX_MEMBERS:
        raise _too_many(name)
    return end - length, expected


def _zip_entries(archive: zipfile.ZipFile, listing: Listing) -> Iterator[Entry]:
    seen: set[tuple[str, ...]] = set()
    for member in archive.infolist():
        shown = member.filename.replace("\\", "/")  # some packers on Windows write backslashes
        path = _admit(shown, _zip_kind(member), listing, seen)
        if path is None:
            continue
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            reason = f"compression method {member.compress_type} is not supported"
            listing.skipped.append(Skipped(printable(path), reason, "pack the archive again with deflate"))
        elif member.file_size > max(FREE_MEMBER_BYTES, MAX_RATIO * member.compress_size):
            reason = f"expands more than {MAX_RATIO}-fold, as in a zip bomb"
            listing.skipped.append(Skipped(printable(path), reason, "save it again as JPEG or PNG"))
        else:
            yield Entry(path, member.file_size, partial(_read_zip, archive, member))


def _zip_kind(member: zipfile.ZipInfo) -> str:
    mode = member.external_attr >> 16
    if member.is_dir():
        return "folder"
    if stat.S_ISLNK(mode):
        return "symbolic link"
    return "file" if stat.S_IFMT(mode) in (0, stat.S_IFREG) else "special file"


def _read_zip(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    try:
        return archive.read(member)
    except _DAMAGE as error:
        raise OSError(f"damaged in the archive: {error}") from error


# ---------------------------------------------------------------- tar


class _Member(tarfile.TarInfo):
    """A header; those of ordinary files with short names are parsed five times as fast as `tarfile` does."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Return the header in 512 bytes; `tarfile` sees to all but the most common kind."""
        if len(buf) == tarfile.BLOCKSIZE and buf[156:157] == tarfile.REGTYPE and buf[345] == 0:
            name, size, checksum = bytes(buf[:100]), bytes(buf[124:136]), bytes(buf[148:156])
            if size.strip(b" \0").isdigit() and checksum.strip(b" \0").isdigit():
                expected = 8 * 32 + sum(buf) - sum(checksum)  # the field itself counts as eight spaces
                if int(checksum.strip(b" \0"), 8) == expected:
                    member = cls(name.partition(b"\0")[0].decode(encoding, errors))
                    member.size = int(size.strip(b" \0"), 8)
                    return member
        return super().frombuf(buf, encoding, errors)


class _Stream:
    """The bytes of a tar from first to last, counted: what `tarfile` and we read headers and contents from."""

    def __init__(self, name: str, source: IO[bytes], file: IO[bytes]) -> None:
        self.name = name
        self._source, self._file = source, file
        self._position = 0
        self.last_header = b""

    def read(self, size: int) -> bytes:
        """Return the next bytes, at most `size`, for `tarfile`, which reads nothing but headers from here."""
        if not 0 <= size <= MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"header of {size} bytes")
        self.last_header = self._advance(size)
        return self.last_header

    def take(self, size: int) -> bytes:
        """Return the next `size` bytes, all of them."""
        content = self._advance(size)
        if len(content) < size:
            raise EOFError("it ends within a member")
        return content

    def tell(self) -> int:
        return self._position

    def seek(self, position: int, whence: int = 0) -> int:
        """Read on to `position`."""
        if position < self._position or whence != 0:
            raise tarfile.ReadError("member of negative size")
        while self._position < position:
            self.take(min(2**20, position - self._position))
        return position

    def drain(self) -> None:
        """Read to the end, so that the checksum of the compressed stream is verified."""
        while self._advance(2**20):
            pass

    def _advance(self, size: int) -> bytes:
        content = self._source.read(size)
        self._position += len(content)
        _check_expansion(self.name, self._position, self._file.tell())
        return content


def _tar_entries(name: str, file: IO[bytes], head: bytes, listing: Listing) -> Iterator[Entry]:
    """Yield the files of a tar with their contents; members that are not wanted are passed over."""
    file.seek(0)
    opener = next((opener for magic, opener in _OPENERS.items() if head.startswith(magic)), None)
    if opener is None and not _is_tar(head):
        raise _not_an_archive(name, head)
    stream = _Stream(name, opener(file) if opener else file, file)
    seen: set[tuple[str, ...]] = set()
    count = 0
    try:
        archive = tarfile.TarFile(
            fileobj=cast(IO[bytes], stream), tarinfo=_Member, mode="r", encoding="utf-8", errors="surrogateescape"
        )
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # it would keep every header
            count += 1
            if count > MAX_MEMBERS:
                raise _too_many(name)
            path = _admit(member.name, _tar_kind(member), listing, seen)
            if path is not None and member.size > MAX_FILE_BYTES:
                yield Entry(path, member.size, bytes)  # refused by its size
            elif path is not None:
                yield Entry(path, member.size, partial(bytes, stream.take(member.size)))
            stream.seek(archive.offset)
        if stream.last_header != bytes(tarfile.BLOCKSIZE):
            raise EOFError("its end marker is missing")
        stream.drain()
    except _DAMAGE as error:
        raise _damaged(name, error) from error


def _tar_kind(member: tarfile.TarInfo) -> str:
    if member.isdir():
        return "folder"
    if member.issparse():
        return "sparse file"
    if member.isreg():
        return "file"
    if member.issym() or member.islnk():
        return "symbolic link" if member.issym() else "hard link"
    return "FIFO" if member.isfifo() else "device" if member.isdev() else "unknown type"


def _is_tar(head: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")  # verifies the checksum
    except tarfile.TarError:
        return False
    return True


# ---------------------------------------------------------------- errors


def _check_expansion(name: str, expanded: int, packed: int) -> None:
    if expanded > MAX_TOTAL_BYTES or (expanded > FREE_BYTES and expanded > MAX_RATIO * packed):
        raise DataError(
            f"{name} expands to more than {MAX_TOTAL_BYTES} bytes or {MAX_RATIO} times its size, as a bomb does; "
            "if you trust it, unpack it and give the folder"
        )


def _too_many(name: str) -> DataError:
    return DataError(
        f"{name} has more than {MAX_MEMBERS} members; unpack it and give the folder, or use fewer pictures"
    )


def _damaged(name: str, error: Exception) -> DataError:
    return DataError(f"{name} is damaged or cut short ({printable(str(error))}); {_DAMAGED_REMEDY}")


def _not_an_archive(name: str, head: bytes) -> DataError:
    kind = next((kind for magic, kind in _OTHER_ARCHIVES.items() if head.startswith(magic)), None)
    found = f"a {kind} archive" if kind else "neither a zip nor a tar"
    return DataError(f"{name} is {found}; expected zip, tar, tar.gz, tar.xz or tar.bz2. Unpack it and give the folder")

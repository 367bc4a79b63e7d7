"""The files inside a zip or tar archive, streamed into memory; nothing is ever unpacked to disk.

The name of a member gives its class and nothing else; a name that would lead out of the archive is skipped.
An archive that is damaged, encrypted, or made to expand out of all proportion is refused as a whole: there is no
partial data set.
"""

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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, Self, cast

from convscope.data.decode.cache import DecodeCache
from convscope.data.decode.files import MAX_FILE_BYTES, Entry, Listing, Stamp, stamp_of
from convscope.data.decode.formats import sniff
from convscope.data.names import folders_above, is_ignored, printable
from convscope.errors import DataError, NoLabels
from convscope.results.prediction import Skipped

MAX_MEMBERS = 500_000
"""Members an archive may have."""
MAX_TOTAL_BYTES = 64 * 2**30
"""Bytes its members may have in all when expanded."""
MAX_RATIO = 200
"""Expanded bytes to archive bytes; images are compressed already and stay below 20."""
FREE_BYTES = 16 * 2**20
"""The ratio is not checked below this many expanded bytes: they do no harm."""
FREE_MEMBER_BYTES = 2**20
"""The same for a single member of a zip."""
PIECE_BYTES = 2**20
"""A tar is unpacked in pieces of this size, and how far it has expanded is checked after each."""
MAX_HEADER_BYTES = 2**20
"""Bytes that one header of a tar member may have, including long names and extended attributes."""

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
_DAMAGED_REMEDY = "no image of it is used; get it again from where it came, or pack it again"


@contextmanager
def open_archive(
    path: Path, listing: Listing, cache: DecodeCache | None = None
) -> Iterator[tuple[list[Entry] | Iterator[Entry], Stamp]]:
    """Yield the files inside an archive, which can be read until the block ends, and the stamp of the archive.

    zip, tar, tar.gz, tar.xz and tar.bz2 are distinguished by content. A tar is read while the iterator is consumed.
    An archive that the cache holds completely is not read at all.

    Raises:
        DataError: the archive is damaged, encrypted, too large when expanded or of another kind; damage to a tar shows
            while the entries are consumed.
    """
    name = printable(path.name)
    try:
        file = path.open("rb")
    except OSError as error:
        raise DataError(f"{name} cannot be read ({error.strerror or error}); check its path and rights") from error
    with file:
        stamp = stamp_of(os.fstat(file.fileno()))
        if cache is not None and cache.archive is not None and cache.archive[0] == stamp:
            known = cache.archive[1]
            listing.folders, listing.skipped, listing.ignored = known.folders, known.skipped, known.ignored
            yield cache.entries(), stamp
            return
        head = file.read(512)
        if head.startswith((b"PK\3\4", b"PK\5\6")) or (not _is_tar(head) and is_zip(file)):
            with _open_zip(name, file) as archive:
                yield list(_zip_entries(archive, listing, stamp)), stamp
        else:
            yield _tar_entries(name, file, head, listing, stamp), stamp


def is_zip(file: Path | IO[bytes]) -> bool:
    """Return whether a file ends as a zip does, in one volume or as one of several."""
    try:
        return zipfile.is_zipfile(file)
    except zipfile.BadZipFile:  # of several volumes
        return True


def _admit(member: str, kind: str, listing: Listing, seen: set[str]) -> str | None:
    """Return the path of a member to read, which joins those `seen` before; anything else goes into the listing."""
    parts = tuple(part for part in member.split("/") if part not in ("", "."))
    path = "/".join(parts)
    if member.startswith("/") or ".." in parts or re.match("[A-Za-z]:", member):
        problem = ("name leads out of the archive", "pack it again with names relative to its top")
    elif any(map(is_ignored, parts)):
        listing.ignored += kind != "folder"
        return None
    elif kind == "folder":
        listing.folders |= folders_above(path)
        return None
    elif kind != "file" or not parts:
        problem = (f"not a regular file ({kind})", "pack the file itself, not a link to it")
    elif path in seen:
        problem = ("second member of this name", "pack the archive again with distinct names")
    else:
        seen.add(path)
        listing.folders |= folders_above("/".join(parts[:-1]))
        return path
    listing.skipped.append(Skipped(printable(member), *problem))
    return None


# ---------------------------------------------------------------- zip


def _open_zip(name: str, file: IO[bytes]) -> zipfile.ZipFile:
    """Return the archive after checking its directory."""
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
    """Return where the central directory begins, in bytes, and how many members it announces; its size is bounded.

    `zipfile` would read one of any size, and accept fewer members than announced.

    Source: PKWARE APPNOTE 6.3.10, sections 4.3.12 to 4.3.16.
    """
    size = file.seek(0, os.SEEK_END)
    tail_start = file.seek(max(0, size - 22 - 65535 - 76))  # end record, its comment, the two zip64 records before it
    tail = file.read()
    found = tail.rfind(b"PK\5\6")
    if found < 0 or found + 22 > len(tail):
        raise DataError(f"{name} is damaged: its central directory is missing, so it is cut short; {_DAMAGED_REMEDY}")
    volume, first_volume = struct.unpack_from("<HH", tail, found + 4)
    if {volume, first_volume} - {0, 0xFFFF}:  # 0xFFFF: see the zip64 record
        raise DataError(
            f"{name} is one of several volumes of a zip; join them first, with: zip -s 0 {name} --out whole.zip"
        )
    end, (expected, length) = tail_start + found, struct.unpack_from("<HI", tail, found + 10)
    if found >= 76 and tail[found - 20 : found - 16] == b"PK\6\7":
        end, (expected, length) = end - 76, struct.unpack_from("<QQ", tail, found - 76 + 32)
    if length > min(end, MAX_MEMBERS * 512):
        raise DataError(f"{name} is damaged: central directory of {length} bytes; {_DAMAGED_REMEDY}")
    file.seek(end - length)
    if file.read(length).count(b"PK\1\2") > MAX_MEMBERS:
        raise _too_many(name)
    return end - length, expected


def _zip_entries(archive: zipfile.ZipFile, listing: Listing, stamp: Stamp) -> Iterator[Entry]:
    seen: set[str] = set()
    for member in archive.infolist():
        shown = _zip_name(member).replace("\\", "/")  # some packers on Windows write backslashes
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
            yield Entry(path, member.file_size, partial(_read_zip, archive, member), stamp)


def _zip_name(member: zipfile.ZipInfo) -> str:
    """Return the name of a member; packers on a Mac write UTF-8 without the flag that says so."""
    if member.flag_bits & 0x800:
        return member.filename
    try:
        return member.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return member.filename


def _zip_kind(member: zipfile.ZipInfo) -> str:
    kinds = {0: "file", stat.S_IFREG: "file", stat.S_IFLNK: "symbolic link"}
    return "folder" if member.is_dir() else kinds.get(stat.S_IFMT(member.external_attr >> 16), "special file")


def _read_zip(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    try:
        with archive.open(member) as file:
            content = file.read(member.file_size + 1)  # `read()` would unpack everything, whatever was announced
    except _DAMAGE as error:
        raise OSError(f"damaged in the archive: {error}") from error
    if len(content) != member.file_size:
        raise OSError(f"damaged in the archive: {member.file_size} bytes announced, {len(content)} found")
    return content


# ---------------------------------------------------------------- tar


class _Member(tarfile.TarInfo):
    """A header; those of ordinary files with short names are parsed five times as fast as in `tarfile`."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Return the header in 512 bytes; `tarfile` parses all but the most common kind."""
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
    """The bytes of a tar in order, counted; `tarfile` reads headers from here and we read contents."""

    def __init__(self, name: str, source: IO[bytes], file: IO[bytes]) -> None:
        self.name = name
        self._source, self._file = source, file
        self._position = 0
        self.last_header = b""

    def read(self, size: int) -> bytes:
        """Return the next bytes, at most `size`, for `tarfile`, which reads only headers from here."""
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
            self.take(min(PIECE_BYTES, position - self._position))
        return position

    def _advance(self, size: int) -> bytes:
        pieces = []
        while size and (piece := self._source.read(min(PIECE_BYTES, size))):
            pieces.append(piece)
            size -= len(piece)
            self._position += len(piece)
            _check_expansion(self.name, self._position, self._file.tell())
        return b"".join(pieces)


def _tar_entries(name: str, file: IO[bytes], head: bytes, listing: Listing, stamp: Stamp) -> Iterator[Entry]:
    """Yield the files of a tar with their contents; other members go into the listing."""
    file.seek(0)
    opener = next((opener for magic, opener in _OPENERS.items() if head.startswith(magic)), None)
    if opener is None and not _is_tar(head):
        kind = next((kind for magic, kind in _OTHER_ARCHIVES.items() if head.startswith(magic)), None)
        if sniff(head) is not None:
            raise NoLabels(f"{name} is one image, without a label; expected a folder or an archive of class folders")
        found = f"a {kind} archive" if kind else "neither a zip nor a tar"
        raise DataError(
            f"{name} is {found}; expected zip, tar, tar.gz, tar.xz or tar.bz2. Unpack it and give the folder"
        )
    stream = _Stream(name, opener(file) if opener else file, file)
    seen: set[str] = set()
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
                yield Entry(path, member.size, bytes, stamp)  # refused by its size
            elif path is not None:
                yield Entry(path, member.size, partial(bytes, stream.take(member.size)), stamp)
            stream.seek(archive.offset)
        if stream.last_header != bytes(tarfile.BLOCKSIZE):
            raise EOFError("its end marker is missing")
        while stream.read(MAX_HEADER_BYTES):  # to the end, so that the checksum of the compressed stream is verified
            pass
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
            f"{name} expands to more than {MAX_TOTAL_BYTES} bytes or {MAX_RATIO} times its size, as a zip bomb does; "
            "if you trust it, unpack it and give the folder"
        )


def _too_many(name: str) -> DataError:
    return DataError(f"{name} has more than {MAX_MEMBERS} members; unpack it and give the folder, or use fewer images")


def _damaged(name: str, error: Exception) -> DataError:
    return DataError(f"{name} is damaged or cut short ({printable(str(error))}); {_DAMAGED_REMEDY}")

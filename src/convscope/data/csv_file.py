"""Pictures named in a CSV with the columns `path`, `label` and, where wanted, `split`.

- The first line names the columns, in any order and spelling of capitals; others may stand between them. Fields are
  divided by commas, semicolons or tabs, and quoted as in RFC 4180.
- UTF-8 with or without a byte order mark, or UTF-16 with one.
- Paths are relative to the folder of the CSV. Spaces around labels and split words do not count.
- Split words are those of part folders: train, val, test, ... An empty one leaves the choice to us.
- A row without path or label, a second row of one path and a file that is not there are listed; the others go on.
"""

from __future__ import annotations

import codecs
import csv
import io
import posixpath
from collections.abc import Iterator
from pathlib import Path

from convscope.config import DataConfig
from convscope.data.folder import look_at
from convscope.data.gather import gather
from convscope.data.image_set import ImageSet
from convscope.data.intake import Entry, printable
from convscope.data.layout import PART_FOLDERS, Homes, Listing, PathParts
from convscope.data.store import load_kept
from convscope.errors import DataError
from convscope.pictures import Skipped
from convscope.progress import OnProgress, ignore_progress

MAX_CSV_BYTES = 256 * 2**20
"""Larger files are not read: some two million rows."""
EXPECTED = "expected a CSV whose first line is path,label or path,label,split"

_DELIMITERS = (",", ";", "\t")
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def is_csv(path: Path) -> bool:
    """Return whether a file is called like a CSV."""
    return path.suffix.lower() in (".csv", ".tsv")


def load_csv(config: DataConfig, on_progress: OnProgress = ignore_progress) -> ImageSet:
    """Return the pictures that the CSV `config.source` names, by the same rules as those of a folder.

    Raises:
        DataError: the CSV cannot be read, lacks a column, or has a split word we do not know; or there are fewer than
            two classes that have pictures.
    """
    path, listing = Path(config.source), Listing()
    entries, homes = read_rows(path, listing)
    kept = load_kept(config)
    if not kept.is_of(entries):
        kept = kept.without_borrowed_sizes(config)
    return gather(
        printable(path.name),
        config,
        entries,
        listing,
        on_progress,
        total=len(entries),
        kept=kept,
        find_homes=lambda *_: homes,
    )


def read_rows(path: Path, listing: Listing) -> tuple[list[Entry], Homes]:
    """Return the files that a CSV names, each once, and where they belong.

    Raises:
        DataError: as `load_csv`.
    """
    of: dict[PathParts, tuple[str, str]] = {}
    named_by: dict[str, tuple[str, ...]] = {}
    entries = []
    for line, spelled, label, part in _rows(path):
        name = posixpath.normpath(spelled) if spelled else ""
        shown = printable(name)
        parts = tuple(name.split("/"))
        if not name:
            listing.skipped.append(Skipped(f"line {line}", "no path", f"write one into line {line} of {path.name}"))
        elif parts in of:
            other = "" if of[parts] == (part, label) else ", with another label or split"
            reason = f"second row of this path (line {line}{other})"
            listing.skipped.append(Skipped(shown, reason, "leave one row for each picture"))
        elif not label:
            listing.skipped.append(Skipped(shown, "no label", f"write its class into line {line} of {path.name}"))
        else:
            of[parts] = part, label
            named_by[shown] = (printable(label),)
            found = _find(path.parent, spelled, name, line)
            if isinstance(found, Entry):
                entries.append(found)
            else:
                listing.skipped.append(found)
    homes = Homes(of.get, frozenset(of.values()), lambda file: named_by.get(file, ()), False, EXPECTED)
    return sorted(entries, key=lambda entry: entry.name), homes


def _find(folder: Path, spelled: str, name: str, line: int) -> Entry | Skipped:
    """Return the file that a row names, or why there is none."""
    missing = Skipped(printable(name), "no such file", f"correct line {line}; paths are relative to the CSV's folder")
    if "\0" in spelled:
        return missing
    path = folder / spelled
    if "\\" in spelled and not path.exists():
        path = folder / spelled.replace("\\", "/")  # written on Windows
    found = look_at(str(path), name, path.stat)
    if found is None:
        return Skipped(printable(name), "a folder, not a picture", f"name a file in line {line}")
    gone = isinstance(found, Skipped) and found.reason == "not there any more"
    return missing if gone else found


def _rows(path: Path) -> Iterator[tuple[int, str, str, str]]:
    """Yield (number of its last line, path, label, part) of each row; raises DataError."""
    name = printable(path.name)
    text = _read_text(path)
    try:
        header, delimiter = _find_header(name, text)
        places = {column: header.index(column) for column in ("path", "label", "split") if column in header}
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        next(reader)
        for row in reader:
            if not any(row):
                continue
            fields = {column: row[at] if at < len(row) else "" for column, at in places.items()}
            word = fields.get("split", "").strip()
            part = PART_FOLDERS.get(word.lower())
            if word and part is None:
                raise DataError(
                    f"{name}, line {reader.line_num}: unknown split {printable(word)!r}; known are "
                    f"{', '.join(PART_FOLDERS)}, and nothing to leave the choice to us"
                )
            yield reader.line_num, fields["path"], fields["label"].strip(), part or ""
    except csv.Error as error:
        raise DataError(
            f"{name}, line {reader.line_num}: not a row of a CSV ({error}); a field with a quotation mark or a line "
            'break in it stands in quotation marks, doubled inside: "5"" disk.jpg"'
        ) from error


def _find_header(name: str, text: str) -> tuple[list[str], str]:
    """Return the columns, in lower case, and what divides them; raises DataError where `path` or `label` is missing."""
    first = text.partition("\n")[0].rstrip("\r")

    def columns(delimiter: str) -> list[str]:
        return [column.strip().lower() for column in next(csv.reader([first], delimiter=delimiter), [])]

    needed = ("path", "label")
    delimiter = max(_DELIMITERS, key=lambda each: sum(column in columns(each) for column in needed))
    header = columns(delimiter)
    lacking = [repr(column) for column in needed if column not in header]
    if lacking:
        raise DataError(
            f"{name} has no column {' and no column '.join(lacking)}; its first line is {printable(first[:200])!r}. "
            f"{EXPECTED}"
        )
    return header, delimiter


def _read_text(path: Path) -> str:
    name = printable(path.name)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_CSV_BYTES + 1)
    except OSError as error:
        raise DataError(f"{name} cannot be read ({error.strerror or error}); check its path and rights") from error
    if len(content) > MAX_CSV_BYTES:
        raise DataError(f"{name} has more than {MAX_CSV_BYTES} bytes; divide it, or give the folder of pictures")
    encoding = next((kind for mark, kind in _MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{name} is not text in {encoding.upper()} (line {line}); save it as UTF-8") from error

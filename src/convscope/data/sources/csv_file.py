"""Images named in a CSV with the columns `path`, `label` and, optionally, `split`.

- The first line names the columns, in any order, in capitals or not; other columns are ignored. Fields are divided by
  commas, semicolons or tabs, or by what a line `sep=;` before it says, and quoted as in RFC 4180.
- Without a column `split`, one called `set`, `subset`, `fold` or the like is taken for it if it holds split words, and
  that is noted; so is one that is not used.
- UTF-8 with or without a byte order mark, or UTF-16 with one.
- Paths are relative to the folder of the CSV. Spaces around labels and split words are ignored.
- Split words are those of split folders: train, val, test, ..., or contain one (`test_set`). An image with an empty one
  is assigned by convscope.
- A row without path or label, a second row of one path and a missing file are skipped; the others are used.
"""

import codecs
import csv
import io
import posixpath
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from convscope.data.decode.files import Entry, Listing
from convscope.data.names import first_names, printable
from convscope.data.sources.folder import entry_of
from convscope.data.sources.labels import Label, LabelRule
from convscope.data.sources.layout import SPLIT_OF_WORD, split_named
from convscope.errors import DataError
from convscope.results.prediction import Skipped

MAX_CSV_BYTES = 256 * 2**20
"""Larger files are not read: some two million rows."""
EXPECTED = "expected a CSV whose first line is path,label or path,label,split"

_LIKE_SPLIT = ("set", "subset", "partition", "fold", "usage", "phase", "data set", "dataset", "part")
"""Columns that may give the splits where none is called `split`."""
_DELIMITERS = (",", ";", "\t")
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def is_csv(path: Path) -> bool:
    """Return whether a file has the name of a CSV."""
    return path.suffix.lower() in (".csv", ".tsv")


def read_rows(path: Path, listing: Listing) -> tuple[list[Entry], LabelRule]:
    """Return the files that a CSV names, sorted by name and each once, and their labels; other rows are skipped.

    Raises:
        DataError: the CSV cannot be read, lacks a column, or has an unknown split word.
    """
    label_of: dict[str, Label] = {}
    class_named_by: dict[str, tuple[str, ...]] = {}
    entries = []
    rows, notes = _read_rows(path)
    for line, spelled, split, class_name in rows:
        name = posixpath.normpath(spelled) if spelled else ""
        label = Label(split, class_name)
        if not name:
            skipped = Skipped(f"line {line}", "no path", f"write one into line {line} of {path.name}")
        elif name in label_of:
            other = "" if label_of[name] == label else ", with another label or split"
            reason = f"second row of this path (line {line}{other})"
            skipped = Skipped(printable(name), reason, "leave one row for each image")
        elif not class_name:
            skipped = Skipped(printable(name), "no label", f"write its class into line {line} of {path.name}")
        else:
            label_of[name] = label
            class_named_by[printable(name)] = (printable(class_name),)
            found = _find(path.parent, spelled, name, line)
            if isinstance(found, Entry):
                entries.append(found)
                continue
            skipped = found
        listing.skipped.append(skipped)
    labels = frozenset(label_of.values())
    rule = LabelRule(label_of.get, labels, lambda file: class_named_by.get(file, ()), False, EXPECTED, notes)
    return sorted(entries, key=lambda entry: entry.name), rule


def _find(folder: Path, spelled: str, name: str, line: int) -> Entry | Skipped:
    """Return the file that a row names, or why there is none."""
    missing = Skipped(printable(name), "no such file", f"correct line {line}; paths are relative to the CSV's folder")
    if "\0" in spelled:
        return missing
    path = folder / spelled
    if "\\" in spelled and not path.exists():
        path = folder / spelled.replace("\\", "/")  # written on Windows
    found = entry_of(str(path), name, path.stat)
    if found is None:
        return Skipped(printable(name), "a folder, not an image", f"name a file in line {line}")
    gone = isinstance(found, Skipped) and found.reason == "not there any more"
    return missing if gone else found


def _read_rows(path: Path) -> tuple[list[tuple[int, str, str, str]], tuple[str, ...]]:
    """Return (number of its last line, path, split, class) of each row, and notes on columns; raises DataError."""
    name = printable(path.name)
    text, skipped_lines, delimiters = _without_separator_line(_read_text(path))
    lines_read = 1
    try:
        header, delimiter = _find_header(name, text, delimiters)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        rows = []
        while (row := next(reader, None)) is not None:
            rows.append((reader.line_num + skipped_lines, row))
            lines_read = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{name}, line {lines_read + skipped_lines}: not a row of a CSV ({error}); put a field that contains a "
            'quotation mark or a line break in quotation marks, and double those inside: "5"" disk.jpg"'
        ) from error
    rows = [(line, row) for line, row in rows[1:] if any(row)]

    def column(wanted: str | None) -> list[str]:
        at = header.index(wanted) if wanted in header else None
        return ["" if at is None or at >= len(row) else row[at] for _, row in rows]

    chosen, notes = _choose_split_column(header, column)
    splits = []
    for (line, _), word in zip(rows, column(chosen), strict=True):
        split = split_named(word) if word.strip() else ""
        if split is None:
            raise DataError(
                f"{name}, line {line}: unknown split {printable(word.strip())!r}; expected "
                f"{', '.join(SPLIT_OF_WORD)}, or an empty field where convscope may choose"
            )
        splits.append(split)
    lines, labels = [line for line, _ in rows], [label.strip() for label in column("label")]
    return list(zip(lines, column("path"), splits, labels, strict=True)), notes


def _choose_split_column(header: list[str], column: Callable[[str], list[str]]) -> tuple[str | None, tuple[str, ...]]:
    """Return the column that gives the splits, None if there is none, and notes where its name is not `split`."""
    if "split" in header:
        return "split", ()
    chosen, notes = None, []
    for name in (each for each in header if each in _LIKE_SPLIT):
        words = sorted({word.strip() for word in column(name)} - {""})
        if chosen is None and words and all(split_named(word) is not None for word in words):
            chosen = name
            notes.append(f"column {name!r} gives the splits")
        elif words:
            notes.append(
                f"column {name!r} ({first_names(words[:3])}) was not used; splits are read from a column `split` "
                "that says train, validation or test"
            )
    return chosen, tuple(notes)


def _without_separator_line(text: str) -> tuple[str, int, tuple[str, ...]]:
    """Return a text without a first line such as `sep=;`, as Excel writes it, how many lines that took, delimiters."""
    found = re.match(r"""["']?sep=(.)["']?[ \t]*(\r\n|\r|\n)""", text, re.IGNORECASE)
    return (text, 0, _DELIMITERS) if found is None else (text[found.end() :], 1, (found[1],))


def _find_header(name: str, text: str, delimiters: Sequence[str]) -> tuple[list[str], str]:
    """Return the columns, in lower case, and the delimiter; raises DataError if `path` or `label` is missing."""

    def columns(delimiter: str) -> list[str]:
        first = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), [])
        return [column.strip().lower() for column in first]

    needed = ("path", "label")
    delimiter = max(delimiters, key=lambda each: sum(column in columns(each) for column in needed))
    header = columns(delimiter)
    missing = [repr(column) for column in needed if column not in header]
    if missing:
        first = next(iter(text.splitlines()), "")
        raise DataError(
            f"{name} has no column {' and no column '.join(missing)}; its first line is {printable(first[:200])!r}. "
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
        raise DataError(f"{name} has more than {MAX_CSV_BYTES} bytes; divide it, or give the folder of images")
    encoding = next((kind for mark, kind in _MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{name} is not text in {encoding.upper()} (line {line}); save it as UTF-8") from error

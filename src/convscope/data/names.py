"""Untrusted file names: how they are shown, and which are never images or data."""

import re
import unicodedata
from collections.abc import Collection, Sequence

SHOWN_NAMES = 10
"""How many names a note or an error shows before it says "and n more"."""

_IGNORED_NAMES = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx"}
_WRITTEN = (
    {"run.json", "split.csv"},
    {"health.json", "health.html"},
    {"comparison.json", "comparison.html"},
    {"lab.json", "lab.html"},
    {".gitignore", ".lock"},
)
"""Files that only stand together in a folder that convscope wrote; the last, in one whose run did not begin."""
_LINE_BREAKERS = {"Cc", "Cs", "Zl", "Zp"}
_BIDI_CONTROLS = set("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")


def printable(name: str) -> str:
    """Return `name` on one line without control characters, encodable as UTF-8; different names stay different.

    Control and line-breaking characters, undecodable bytes (surrogates) and characters that reverse the text around
    them become `\\xNN` or `\\uNNNN`; a backslash is doubled.

    Example:
        >>> printable("a\\nb\\udcff")
        'a\\\\x0ab\\\\xff'
    """
    if name.isprintable() and "\\" not in name:
        return name
    return "".join(map(_printable_character, name))


def is_ignored(name: str) -> bool:
    """Return whether a file or folder of this name is never an image: hidden, or written by a file browser."""
    return name.startswith(".") or name.lower() in _IGNORED_NAMES


def missing_path(path: str, kind: str, otherwise: str) -> str:
    """Return what is said of a path that does not exist.

    Args:
        kind: what it should have been, for example "file or folder".
        otherwise: the way out where the path is no web address.
    """
    shown = printable(path)
    if re.match(r"[a-z][a-z0-9+.-]+:/", path):
        return f"{shown!r} is a web address; download what is there, and give the path of the file"
    return f"no {kind} {shown!r}; {otherwise}"


def is_written(names: Collection[str]) -> bool:
    """Return whether a folder that holds files of these names is one that convscope wrote."""
    return any(marks.issubset(names) for marks in _WRITTEN)


def first_names(names: Sequence[str]) -> str:
    """Return the first names, printable, and how many more there are."""
    shown = ", ".join(printable(name) for name in names[:SHOWN_NAMES])
    return shown + (f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else "")


def folders_above(folder: str) -> set[str]:
    """Return a folder and all folders above it, without the source itself."""
    parts = folder.split("/")
    return {"/".join(parts[:depth]) for depth in range(1, len(parts) + 1)} - {""}


def _printable_character(character: str) -> str:
    code = ord(character)
    if character == "\\":
        return "\\\\"
    if 0xDC80 <= code <= 0xDCFF:  # a byte that did not decode (PEP 383)
        return f"\\x{code - 0xDC00:02x}"
    if unicodedata.category(character) in _LINE_BREAKERS or character in _BIDI_CONTROLS:
        return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}"
    return character

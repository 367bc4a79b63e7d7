"""Sizes in bytes, read and written with units."""

import re

from convscope.errors import UsageError

UNITS = {"": 1, "B": 1} | {
    f"{letter}{ending}": base**power
    for power, letter in enumerate("KMGT", 1)
    for ending, base in (("iB", 1024), ("B", 1000), ("", 1024))
}
"""Bytes of each unit: KiB and K are 1,024, KB is 1,000, and so on."""
_SIZE = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z]*)\s*")


def parse_bytes(text: str) -> int:
    """Return the bytes of a size such as 4GiB, 1.5 GB, 800M or 1000000; capitals do not matter.

    Raises:
        UsageError: the text is not a size, or less than a byte.

    Example:
        >>> parse_bytes("1.5 KiB")
        1536
    """
    by_name = {name.lower(): size for name, size in UNITS.items()}
    match = _SIZE.fullmatch(text)
    if match is None or match[2].lower() not in by_name:
        raise UsageError(f"{text!r} is not a memory size; use for example 4GiB, 1.5GB or 800MiB")
    num_bytes = int(float(match[1]) * by_name[match[2].lower()])
    if num_bytes < 1:
        raise UsageError(f"{text!r} is less than one byte; use for example 4GiB, 1.5GB or 800MiB")
    return num_bytes


def size_text(num_bytes: int) -> str:
    """Return a size in bytes, KiB, MiB or GiB, with one decimal.

    Example:
        >>> size_text(1536)
        '1.5 KiB'
    """
    for unit in ("GiB", "MiB", "KiB"):
        if num_bytes >= UNITS[unit]:
            return f"{num_bytes / UNITS[unit]:,.1f} {unit}"
    return f"{num_bytes} bytes"

"""Names, numbers and units as text. An unknown value is a dash."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from convscope.results.run import chosen_by_text, guessing_text, split_text
from convscope.results.text import printable as printable
from convscope.sizes import size_text

UNKNOWN = "–"

MAX_NAME_LENGTH = 48
"""Longer names are shortened in the middle where space is scarce; tables show them in full."""


def shorten(text: str, length: int) -> str:
    """Return at most `length` characters: the start and the end of the text around an ellipsis."""
    if len(text) <= length:
        return text
    tail = (length - 1) // 2
    return f"{text[: length - 1 - tail]}…{text[len(text) - tail :]}"


def name_text(name: str) -> str:
    """Return a class name as a caption: printable, on one line, shortened."""
    return shorten(printable(name), MAX_NAME_LENGTH)


def count_text(value: int | None) -> str:
    """Return a count with thousands separators."""
    return UNKNOWN if value is None else f"{value:,}"


def decimal_text(value: float | None, digits: int = 4) -> str:
    """Return a number with a fixed number of decimals."""
    return UNKNOWN if value is None else f"{value:.{digits}f}"


def percent_text(value: float | None, digits: int = 1) -> str:
    """Return a fraction as percent, with a non-breaking space."""
    return UNKNOWN if value is None else f"{100 * value:.{digits}f}\N{NO-BREAK SPACE}%"


def accuracy_text(accuracy: Mapping[str, Any] | None) -> str:
    """Return the accuracy of results.json with its n and interval."""
    if accuracy is None:
        return UNKNOWN
    value, low, high = (percent_text(accuracy[key], 2) for key in ("value", "low", "high"))
    correct = f"{accuracy['correct']:,} of {accuracy['n']:,} images"
    return f"{value} ({correct}; {percent_text(0.95, 0)} interval {low} to {high}, Wilson)"


def headline_text(results: Mapping[str, Any]) -> str:
    """Return the accuracy of results.json with what it was measured on, and what speaks against it."""
    split, guessing = results["split"], baseline_text(results)
    against = [guessing] if guessing.startswith("not better") else []
    text = f"Accuracy on {split_text(split)}: {accuracy_text(results['accuracy'])}"
    return "; ".join(filter(None, (text, *against, chosen_by_text(split))))


def baseline_text(results: Mapping[str, Any]) -> str:
    """Return what the accuracy of results.json is to be compared with; a dash if it was not recorded."""
    accuracy, baseline = results["accuracy"], results.get("baseline_accuracy")
    if accuracy is None or baseline is None:
        return UNKNOWN
    return guessing_text(accuracy["low"], baseline, name_text(results["baseline_class"]))


def bytes_text(value: int | None) -> str:
    """Return a size in bytes, KiB, MiB or GiB."""
    return UNKNOWN if value is None else size_text(value)


def time_text(iso: str) -> str:
    """Return a time, given as ISO 8601 with offset, in UTC to the minute."""
    return datetime.fromisoformat(iso).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def seconds_text(value: float | None) -> str:
    """Return a duration in seconds, minutes or hours."""
    if value is None:
        return UNKNOWN
    if value < 60:
        return f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"

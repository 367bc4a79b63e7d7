"""What is said of a picture without a label, or of a file that is none.

Apart from `results`, and without numpy, so that a prediction starts in a moment.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Skipped:
    """A file that was found and not used. `file` is printable: one line, no control characters."""

    file: str
    reason: str
    remedy: str


UNKNOWN = "unknown"
"""The answer for a picture that is unlike those a network was trained on."""


@dataclass(frozen=True)
class PicturePrediction:
    """What a model says of one picture without a label.

    Args:
        path: as it was given, printable; of a member of a folder or archive, that of the whole and its own.
        topk: (class name, probability) of the most probable classes, best first.
        unknown: whether the picture is unlike those of the training; None where the model has no threshold for it.
    """

    path: str
    topk: tuple[tuple[str, float], ...]
    unknown: bool | None = None

    @property
    def label(self) -> str:
        """Return the answer: the most probable class, or UNKNOWN."""
        return UNKNOWN if self.unknown else self.topk[0][0]

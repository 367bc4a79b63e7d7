"""The prediction for an image without a label, and the reason for a file that was skipped.

Without numpy, so that a prediction starts quickly.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Skipped:
    """A file that was found but not used. `file` is one line without control characters."""

    file: str
    reason: str
    remedy: str


UNKNOWN = "unknown"
"""The label of an image that is unlike the training images."""


@dataclass(frozen=True)
class ImagePrediction:
    """The prediction of a model for one image.

    Args:
        path: as given, printable; for a member of a folder or archive, the path of the whole and its own.
        topk: (class name, probability) of the most probable classes, best first.
        unknown: whether the image is unlike the training images; None: the model has no threshold.
        unknown_label: the label of such an image, which is that of no class.
    """

    path: str
    topk: tuple[tuple[str, float], ...]
    unknown: bool | None = None
    unknown_label: str = UNKNOWN

    @property
    def label(self) -> str:
        """Return the most probable class, or `unknown_label`."""
        return self.unknown_label if self.unknown else self.topk[0][0]

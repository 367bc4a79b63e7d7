"""Files that others publish: in a folder of the user's, in the cache, or downloaded into it."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convscope.errors import DataError
from convscope.storage.cache import cache_folder

WITHOUT_A_DOWNLOAD = (
    "name the folder of the files with --data-dir; `mnist5k`, `digits` and folders of images work offline"
)
"""The way out when the files of a named data set cannot be downloaded."""


def published_folder(name: str, data_dir: str | None) -> Path:
    """Return the folder the user names for the files of a data set, or that of the cache."""
    return cache_folder(name, otherwise=WITHOUT_A_DOWNLOAD) if data_dir is None else Path(data_dir)


def check_labels(labels: NDArray[Any], num_classes: int, file: str) -> None:
    """Raise DataError for a label that is not a class number."""
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        raise DataError(
            f"{file}: label {labels[wrong[0]]} at position {wrong[0]}, expected 0 to {num_classes - 1} "
            f"({len(wrong)} such labels); this is not the file of this data set, or it is damaged"
        )


def find_file(folders: Iterable[Path], names: Sequence[str]) -> Path | None:
    """Return the first file that exists, by folder, then by name; raises DataError if a folder cannot be read."""
    for path in (folder / name for folder in folders for name in names):
        try:
            if path.is_file():
                return path
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from error
    return None

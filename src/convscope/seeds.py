"""Random numbers as functions of their purpose, so that a run can resume exactly without a saved random state.

A value depends on a tuple of words (seed, purpose, epoch, ...) and an image index, never on earlier values.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray


def derive_seed(*words: int | str) -> int:
    """Return a seed in 0..2**63-1 that depends on every word.

    Example:
        >>> derive_seed(0, "order", 1) == derive_seed(0, "order", 1) != derive_seed(0, "order", 2)
        True
    """
    text = "\0".join(f"{type(word).__name__}:{word}" for word in words)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def permutation(n: int, *words: int | str) -> NDArray[np.int64]:
    """Return 0..n-1 in the random order of these words, int64 [n]."""
    return np.random.Generator(np.random.Philox(derive_seed(*words))).permutation(n).astype(np.int64)


def uniform(indices: NDArray[np.int64], *words: int | str) -> NDArray[np.float32]:
    """Return one number in [0, 1) for each image index, float32 in the shape of `indices`.

    Source: the finalizer of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) over seed + index * golden ratio.
    """
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64 is the point
        z = np.uint64(derive_seed(*words)) + indices.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)

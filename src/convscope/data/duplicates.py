"""Pictures that are there more than once: equal pixel by pixel, or nearly so.

Two pictures are near duplicates when they look the same at 16x16 pixels: with the mean of each channel taken away, the
correlation of their pixels is at least NEAR. A picture that was saved again, resized, recoloured or a little
brightened passes, and so may the next frame of a burst; one that was cropped by a twentieth or mirrored does not.

Measured: among 2.9 million pairs of the 2,398 usable cats and dogs one passes, and it is one picture; the next likest
pair has 0.88. Among 8.3 million pairs of the 4,064 flowers 21 pass, all of them one picture or one burst; the likest
pair of different ones has 0.945.

Where distinct pictures are too much alike the question has no answer, and none is given: below LEAST_PX, and where
pairs that are just not alike enough are many times more frequent than those that are (digits, even when enlarged).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convscope.data.image_set import pixel_digests
from convscope.data.intake import picture_of
from convscope.processors import map_slices

NEAR = 0.97
"""Least correlation of near duplicates."""
LEAST_PX = 32
"""Near duplicates are not looked for among smaller pictures."""
LEAST_CONTRAST = 4.0
"""Root mean square of the signature, in gray levels of 255, below which a picture is as good as blank."""
BELOW_NEAR = 0.94
MANY_TIMES = 3.0
FEW_PAIRS = 30
"""With more than FEW_PAIRS pairs from BELOW_NEAR to NEAR, MANY_TIMES more than from NEAR on, likeness says nothing."""

_SIDE = 16
_AXES = 24
"""Directions in which signatures differ most; pairs that are far apart in these need no closer look."""
_SAMPLE = 2000
_BLOCK = 1024

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Duplicates:
    """Which of N pictures are there more than once.

    Args:
        equal: index of the first picture with exactly the same pixels, int64 [N].
        groups: index of the first of all pictures that are tied to it by equal or near pairs, int64 [N].
        near: pairs of different pictures that look the same, int64 [M, 2], the likest first; one of equal pictures
            stands for all of them.
        likeness: their correlation, float32 [M].
        unclear: why near duplicates were not looked for; "" where they were.
    """

    equal: NDArray[np.int64]
    groups: NDArray[np.int64]
    near: NDArray[np.int64]
    likeness: Floats
    unclear: str = ""


def find_duplicates(images: NDArray[np.uint8], digests: NDArray[np.uint64] | None = None) -> Duplicates:
    """Return the duplicates among pictures of one size, uint8 [N, H, W, C].

    Args:
        digests: as `pixel_digests` returns them; None: they are computed.
    """
    equal = equal_groups((pixel_digests(images) if digests is None else digests).tolist())
    if min(images.shape[1:3]) < LEAST_PX:
        return tie(equal, None)
    distinct = np.unique(equal)
    signatures = np.zeros((len(images), _SIDE * _SIDE * images.shape[3]), np.float32)

    def sign(part: slice) -> None:
        for index in distinct[part]:
            signatures[index] = signature_of(images[index])

    map_slices(sign, len(distinct))
    return tie(equal, signatures)


def equal_groups(keys: Iterable[Hashable]) -> NDArray[np.int64]:
    """Return for each of N keys the index of the first that is equal, int64 [N]."""
    first: dict[Hashable, int] = {}
    return np.array([first.setdefault(key, index) for index, key in enumerate(keys)], np.int64)


def signature_of(picture: NDArray[np.uint8]) -> Floats:
    """Return what a picture [H, W, C] looks like from afar: float32 [256 * C] of length 1, or zeros if it is blank."""
    small = np.asarray(picture_of(picture).resize((_SIDE, _SIDE), Image.Resampling.BOX), np.float32).reshape(
        _SIDE**2, -1
    )
    small = small - small.mean(axis=0)
    length = float(np.linalg.norm(small))
    if length < LEAST_CONTRAST * small.size**0.5:
        return np.zeros(small.size, np.float32)
    return np.asarray(small.ravel() / length, np.float32)


def tie(equal: NDArray[np.int64], signatures: Floats | None) -> Duplicates:
    """Return the duplicates among pictures of which equal ones are known.

    Args:
        signatures: float32 [N, F] as `signature_of`; None: the pictures are too small for near duplicates.
    """
    nothing = np.zeros((0, 2), np.int64), np.zeros(0, np.float32)
    if signatures is None:
        why = f"near duplicates are not looked for in pictures below {LEAST_PX} px"
        return Duplicates(equal, equal, *nothing, unclear=why)
    distinct = np.unique(equal)
    for some in (distinct[:: -(-len(distinct) // _SAMPLE)], distinct):  # a sample mostly tells what all would
        pairs, likeness = _alike(signatures[some], BELOW_NEAR)
        alike = likeness >= NEAR
        if (~alike).sum() > max(FEW_PAIRS, MANY_TIMES * alike.sum()):
            why = "near duplicates cannot be told here: distinct pictures are as much alike as these would be"
            return Duplicates(equal, equal, *nothing, unclear=why)
    order = np.flatnonzero(alike)[np.argsort(-likeness[alike], kind="stable")]
    near = distinct[pairs[order]]
    return Duplicates(equal, _connected(equal, near), near, likeness[order])


def members_of(groups: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return the pictures of each group of two or more, in their order."""
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    return [members for members in np.split(order, starts[1:]) if len(members) > 1]


def _alike(signatures: Floats, least: float) -> tuple[NDArray[np.int64], Floats]:
    """Return all pairs of signatures [N, F] with a product of at least `least`: int64 [M, 2] and float32 [M].

    Projected on a few directions, signatures are never farther apart than they are; only pairs that are near there
    are compared whole. In the order of the first direction these lie in a window.
    """
    if len(signatures) < 2:
        return np.zeros((0, 2), np.int64), np.zeros(0, np.float32)
    sample = signatures[:: -(-len(signatures) // _SAMPLE)]
    _, axes = np.linalg.eigh(sample.T @ sample)
    projected = signatures @ axes[:, : -_AXES - 1 : -1]
    order = np.argsort(projected[:, 0], kind="stable")
    projected = projected[order]
    reach = 2 * (1 - least)  # |a - b|^2 of unit vectors whose product is `least`
    half, one = -(projected**2).sum(axis=1, keepdims=True) / 2, np.ones((len(order), 1), np.float32)
    left, right = np.hstack([projected, half, one]), np.hstack([projected, one, half]).T.copy()
    windows = np.searchsorted(projected[:, 0], projected[:, 0] + reach**0.5, side="right")
    found, products = [], []
    for start in range(0, len(order), _BLOCK):
        end, limit = min(start + _BLOCK, len(order)), int(windows[min(start + _BLOCK, len(order)) - 1])
        near = left[start:end] @ right[:, start:limit] >= -reach / 2 - 1e-4  # the product is -|a - b|^2 / 2
        rows, columns = np.divmod(np.flatnonzero(near), limit - start)
        rows, columns = rows[columns > rows] + start, columns[columns > rows] + start
        for at in range(0, len(rows), _BLOCK * 16):  # bounded memory, however many there are
            a, b = order[rows[at : at + _BLOCK * 16]], order[columns[at : at + _BLOCK * 16]]
            product = np.einsum("ij,ij->i", signatures[a], signatures[b])
            kept = product >= least
            found.append(np.sort(np.stack([a[kept], b[kept]], axis=1), axis=1))
            products.append(product[kept])
    if not found:
        return np.zeros((0, 2), np.int64), np.zeros(0, np.float32)
    return np.concatenate(found).astype(np.int64), np.concatenate(products)


def _connected(equal: NDArray[np.int64], pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return for each picture the first of those that it is tied to, int64 [N]."""
    root = equal.copy()

    def find(index: int) -> int:
        while root[index] != index:
            index = int(root[index])
        return index

    for a, b in pairs:
        first, second = sorted((find(int(a)), find(int(b))))
        root[second] = first
    return np.array([find(int(index)) for index in equal], np.int64)

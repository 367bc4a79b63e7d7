"""Duplicates and near duplicates: images that are equal pixel by pixel, or nearly so.

Two images are near duplicates when they look the same at 16x16 pixels: after subtracting the mean of each channel, the
correlation of their pixels is at least NEAR. An image that was saved again, resized, recoloured or slightly brightened
passes, and so may the next frame of a burst; one that was cropped by a twentieth or mirrored does not.

Measured: among 2.9 million pairs of the 2,398 usable cats and dogs one pair passes, and it is one image; the next has
0.88. Among 8.3 million pairs of the 4,064 flowers 21 pass, each one image or one burst; the most similar pair of
different images has 0.945.

Where distinct images are too similar, near duplicates cannot be recognized and none are reported: below LEAST_PX;
where pairs just below NEAR are many times more frequent than pairs above it (digits, even when enlarged); and where
most images look the same whatever their class, or all of a class do (a fixed camera).
"""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convscope.config import NearDuplicates
from convscope.cpu import map_slices
from convscope.data.dataset import pixel_digests
from convscope.data.decode.resize import to_pillow

NEAR = 0.97
"""Least correlation of near duplicates."""
LEAST_PX = 32
"""No near duplicates are searched among smaller images."""
LEAST_CONTRAST = 4.0
"""Root mean square of the signature, in gray levels of 255, below which an image counts as blank."""
BELOW_NEAR = 0.94
MANY_TIMES = 3.0
FEW_PAIRS = 30
"""With more than FEW_PAIRS pairs from BELOW_NEAR to NEAR, and MANY_TIMES as many as above, NEAR decides nothing."""

GIANT = 10
"""Least images of a group that is too large to be one image, and of a class that is one group."""

_SIDE = 16
_AXES = 24
"""Principal directions of the signatures; pairs that are far apart along these are not compared in full."""
_SAMPLE = 2000
_BLOCK = 1024

Floats = NDArray[np.float32]
NO_PAIRS: tuple[NDArray[np.int64], Floats] = (np.zeros((0, 2), np.int64), np.zeros(0, np.float32))


@dataclass(frozen=True)
class Duplicates:
    """Which of N images are duplicates of others.

    Args:
        equal: index of the first image with exactly the same pixels, int64 [N].
        groups: index of the first of all images connected to it by equal or near pairs, int64 [N].
        near: near-duplicate pairs, int64 [M, 2], the most similar first; one of several equal images stands for all.
        correlation: of these pairs, float32 [M].
        unclear: why near duplicates were not searched; "" where they were.
    """

    equal: NDArray[np.int64]
    groups: NDArray[np.int64]
    near: NDArray[np.int64]
    correlation: Floats
    unclear: str = ""


def find_duplicates(
    images: NDArray[np.uint8],
    digests: NDArray[np.uint64] | None = None,
    labels: NDArray[np.int64] | None = None,
    near: NearDuplicates = "auto",
) -> Duplicates:
    """Return the duplicates among images of one size, uint8 [N, H, W, C]; None computes their digests.

    Labels and `near` as in `group_duplicates`.
    """
    equal = equal_groups((pixel_digests(images) if digests is None else digests).tolist())
    if near == "keep":
        return Duplicates(equal, equal, *NO_PAIRS, unclear="near duplicates were not searched (--near-duplicates keep)")
    if min(images.shape[1:3]) < LEAST_PX:
        return group_duplicates(equal, None)
    return group_duplicates(equal, _sign(images, np.unique(equal)), labels, near)


def find_known(
    images: NDArray[np.uint8], digests: NDArray[np.uint64], known: NDArray[np.uint8], known_digests: NDArray[np.uint64]
) -> NDArray[np.bool_]:
    """Return which images, uint8 [N, H, W, C], are duplicates or near duplicates of known ones, [M, H, W, C]."""
    equal = equal_groups([*known_digests.tolist(), *digests.tolist()])
    signatures = None
    if min(images.shape[1:3]) >= LEAST_PX:
        signatures = np.concatenate([_sign(each, np.arange(len(each))) for each in (known, images)])
    groups = group_duplicates(equal, signatures).groups
    return np.isin(groups[len(known) :], groups[: len(known)])


def _sign(images: NDArray[np.uint8], chosen: NDArray[np.int64]) -> Floats:
    """Return the signatures of the chosen images, float32 [N, F]; those of others are zeros."""
    signatures = np.zeros((len(images), _SIDE * _SIDE * images.shape[3]), np.float32)

    def sign(rows: slice) -> None:
        for index in chosen[rows]:
            signatures[index] = signature_of(images[index])

    map_slices(sign, len(chosen))
    return signatures


def equal_groups(keys: Iterable[Hashable]) -> NDArray[np.int64]:
    """Return for each of N keys the index of the first equal one, int64 [N]."""
    first: dict[Hashable, int] = {}
    return np.array([first.setdefault(key, index) for index, key in enumerate(keys)], np.int64)


def signature_of(image: NDArray[np.uint8]) -> Floats:
    """Return the 16x16 copy of an image [H, W, C], centred: float32 [256 * C] of length 1, or zeros if it is blank."""
    small = np.asarray(to_pillow(image).resize((_SIDE, _SIDE), Image.Resampling.BOX), np.float32).reshape(_SIDE**2, -1)
    small = small - small.mean(axis=0)
    length = float(np.linalg.norm(small))
    if length < LEAST_CONTRAST * small.size**0.5:
        return np.zeros(small.size, np.float32)
    return np.asarray(small.ravel() / length, np.float32)


def group_duplicates(
    equal: NDArray[np.int64],
    signatures: Floats | None,
    labels: NDArray[np.int64] | None = None,
    near: NearDuplicates = "auto",
) -> Duplicates:
    """Return the duplicates among images, given which are equal and their signatures, float32 [N, F].

    Without signatures the images are too small for near duplicates. With "group" similar images are near duplicates
    even where distinct images seem to be as similar; auto decides by the data and the labels, int64 [N].
    """
    if signatures is None:
        why = f"near duplicates are not searched among images below {LEAST_PX} px"
        return Duplicates(equal, equal, *NO_PAIRS, unclear=why)
    distinct = np.unique(equal)
    for some in (distinct[:: -(-len(distinct) // _SAMPLE)], distinct):  # a sample usually suffices to stop early
        pairs, correlation = _similar_pairs(signatures[some], BELOW_NEAR)
        is_near = correlation >= NEAR
        why = (
            "" if near == "group" else _why_unclear(len(some), pairs, is_near, None if labels is None else labels[some])
        )
        if why:
            return Duplicates(equal, equal, *NO_PAIRS, unclear=why)
    order = np.flatnonzero(is_near)[np.argsort(-correlation[is_near], kind="stable")]
    found = distinct[pairs[order]]
    return Duplicates(equal, _connected(equal, found) if len(found) else equal, found, correlation[order])


def _why_unclear(n: int, pairs: NDArray[np.int64], is_near: NDArray[np.bool_], labels: NDArray[np.int64] | None) -> str:
    """Return why the near pairs among n distinct images do not tell what is one image; "" where they do."""
    if (~is_near).sum() > max(FEW_PAIRS, MANY_TIMES * is_near.sum()):
        return "near duplicates cannot be recognized here: distinct images are as similar as they would be"
    if is_near.sum() < GIANT - 1:
        return ""
    groups = _connected(np.arange(n), pairs[is_near])
    classes = np.zeros(n, np.int64) if labels is None else labels
    sizes = np.bincount(groups)
    largest = groups == sizes.argmax()
    if sizes.max() >= max(GIANT, n / 2) and (labels is None or len(np.unique(classes[largest])) > 1):
        found = f"{sizes.max():,} of {n:,} distinct images look alike, across classes"
    elif alike := [k for k in np.unique(classes) if _is_one_group(groups[classes == k])]:
        found = f"all images of {len(alike)} of {len(np.unique(classes))} classes look like one another"
    else:
        return ""
    return f"near duplicates cannot be told apart here: {found}, as a fixed camera's do"


def _is_one_group(groups: NDArray[np.int64]) -> bool:
    return len(groups) >= GIANT and bool((groups == groups[0]).all())


def members_of(groups: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return the images of each group of two or more, in ascending order."""
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    return [members for members in np.split(order, starts[1:]) if len(members) > 1]


def _similar_pairs(signatures: Floats, least: float) -> tuple[NDArray[np.int64], Floats]:
    """Return all pairs of signatures [N, F] with a product of at least `least`: int64 [M, 2] and float32 [M].

    Projection on a few directions never increases a distance, so only pairs that are near in the projection are
    compared in full. Sorted by the first direction, these lie within a window.
    """
    if len(signatures) < 2:
        return NO_PAIRS
    sample = signatures[:: -(-len(signatures) // _SAMPLE)]
    _, axes = np.linalg.eigh(sample.T @ sample)
    projected = signatures @ axes[:, : -_AXES - 1 : -1]
    order = np.argsort(projected[:, 0], kind="stable")
    projected = projected[order]
    reach = 2 * (1 - least)  # |a - b|^2 of unit vectors whose product is `least`
    half, one = -(projected**2).sum(axis=1, keepdims=True) / 2, np.ones((len(order), 1), np.float32)
    left, right = np.hstack([projected, half, one]), np.hstack([projected, one, half]).T.copy()
    windows = np.searchsorted(projected[:, 0], projected[:, 0] + reach**0.5, side="right")
    found, products = [NO_PAIRS[0]], [NO_PAIRS[1]]
    for start in range(0, len(order), _BLOCK):
        end, limit = min(start + _BLOCK, len(order)), int(windows[min(start + _BLOCK, len(order)) - 1])
        near = left[start:end] @ right[:, start:limit] >= -reach / 2 - 1e-4  # the product is -|a - b|^2 / 2
        rows, columns = np.divmod(np.flatnonzero(near), limit - start)
        rows, columns = rows[columns > rows] + start, columns[columns > rows] + start
        for at in range(0, len(rows), _BLOCK * 16):  # bounded memory, however many there are
            a, b = order[rows[at : at + _BLOCK * 16]], order[columns[at : at + _BLOCK * 16]]
            product = np.einsum("ij,ij->i", signatures[a], signatures[b])
            enough = product >= least
            found.append(np.sort(np.stack([a[enough], b[enough]], axis=1), axis=1))
            products.append(product[enough])
    return np.concatenate(found), np.concatenate(products)


def _connected(equal: NDArray[np.int64], pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return for each image the first that it is connected to, int64 [N]."""
    from scipy.sparse import coo_array  # scipy is imported only where there are near duplicates
    from scipy.sparse.csgraph import connected_components

    n = len(equal)
    edges = np.concatenate([pairs, np.stack([np.arange(n), equal], axis=1)])
    graph = coo_array((np.ones(len(edges)), tuple(edges.T)), shape=(n, n))
    _, first, component = np.unique(
        connected_components(graph, directed=False)[1], return_index=True, return_inverse=True
    )
    return first[component]

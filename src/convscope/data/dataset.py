"""ImageSet, the form in which all stages pass images on: all of one size, in one uint8 array."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from convscope.cpu import map_slices
from convscope.errors import DataError
from convscope.results.prediction import Skipped

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class ImageSet:
    """N labelled images of one size.

    Args:
        name: what a report calls it, for example "mnist5k".
        images: uint8 [N, H, W, C], C 1 (gray) or 3 (RGB).
        labels: class numbers, int64 [N], each below K.
        class_names: K printable names in label order.
        ids: N printable strings, unique: the path inside the source, or the index as text.
        source_splits: the split the source itself assigns to each image, N strings: "train", "validation", "test",
            or "" where it assigns none.
        skipped: files found and not used; found = N + len(skipped).
        ignored: number of files that are never images (`Thumbs.db`, `.DS_Store`, ...).
        notes: what the user should know, one printable line each.
    """

    name: str
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    ids: tuple[str, ...]
    source_splits: tuple[str, ...]
    skipped: tuple[Skipped, ...] = ()
    ignored: int = 0
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.images)
        if self.images.ndim != 4 or self.images.dtype != np.uint8 or self.images.shape[3] not in (1, 3):
            raise ValueError(f"images must be uint8 [N, H, W, 1 or 3], got {self.images.dtype} {self.images.shape}")
        if not (len(self.labels) == len(self.ids) == len(self.source_splits) == n):
            raise ValueError(
                f"{n} images, {len(self.labels)} labels, {len(self.ids)} ids, {len(self.source_splits)} splits"
            )
        if n == 0:
            raise DataError(f"{self.name}: no usable image; {len(self.skipped)} were skipped")
        if not 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(self.class_names):
            raise DataError(
                f"{self.name}: labels run from {self.labels.min()} to {self.labels.max()}, "
                f"expected 0 to {len(self.class_names) - 1}"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_classes(self) -> int:
        """Return K."""
        return len(self.class_names)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return (C, H, W), the order of a network's input."""
        _, height, width, channels = self.images.shape
        return channels, height, width

    @cached_property
    def fingerprint(self) -> str:
        """Return the sha256 of pixels, labels, splits, ids and class names."""
        digest = hashlib.sha256(repr((self.images.shape, self.class_names)).encode())
        digest.update(np.ascontiguousarray(self.images).data)
        digest.update(np.ascontiguousarray(self.labels).data)
        digest.update("\n".join(self.source_splits).encode())
        digest.update("\n".join(self.ids).encode())
        return digest.hexdigest()

    @cached_property
    def digests(self) -> NDArray[np.uint64]:
        """Return a hash of the pixels of each image, uint64 [N]."""
        return pixel_digests(self.images)

    def with_class_order(self, class_names: Sequence[str]) -> ImageSet:
        """Return the set with its classes in this order; unchanged if these are not its classes."""
        if sorted(class_names) != sorted(self.class_names) or tuple(class_names) == self.class_names:
            return self
        place = {name: number for number, name in enumerate(class_names)}
        numbers = np.array([place[name] for name in self.class_names], np.int64)
        return replace(self, labels=numbers[self.labels], class_names=tuple(class_names))

    def take(self, indices: NDArray[np.int64]) -> ImageSet:
        """Return the set of these images only, in this order."""
        return replace(
            self,
            images=self.images[indices],
            labels=self.labels[indices],
            ids=tuple(self.ids[i] for i in indices),
            source_splits=tuple(self.source_splits[i] for i in indices),
        )


def numbered_images(
    name: str, images: NDArray[np.uint8], labels: NDArray[np.int64], class_names: Sequence[str], splits: Sequence[str]
) -> ImageSet:
    """Return a set of images whose ids are their indices."""
    return ImageSet(name, images, labels, tuple(class_names), tuple(map(str, range(len(labels)))), tuple(splits))


def pixel_digests(images: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return a hash of each image [N, H, W, C], uint64 [N]."""
    pixels = np.ascontiguousarray(images).reshape(len(images), -1)

    def digest(rows: slice) -> bytes:
        return b"".join(hashlib.blake2b(row.data, digest_size=8).digest() for row in pixels[rows])

    return np.frombuffer(b"".join(map_slices(digest, len(pixels))), np.uint64)

"""The one form in which pictures travel: an ImageSet, all pictures of one size in one uint8 array."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from convscope.errors import DataError
from convscope.pictures import Skipped
from convscope.processors import map_slices

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class ImageSet:
    """N labelled pictures of one size.

    Args:
        name: what a report calls it, for example "mnist5k".
        images: uint8 [N, H, W, C], C 1 (gray) or 3 (RGB).
        labels: class numbers, int64 [N], each below K.
        class_names: K printable names in label order.
        ids: N printable strings, unique: the path inside the source, or the index as text.
        parts: the part the source itself assigns to each picture, N strings: "train", "validation", "test", or ""
            where it leaves the choice to us.
        skipped: files found and not used; found = N + len(skipped).
        ignored: number of files that are never pictures (`Thumbs.db`, `.DS_Store`, ...) and were passed over.
        notes: things worth saying aloud, one printable line each.
    """

    name: str
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    ids: tuple[str, ...]
    parts: tuple[str, ...]
    skipped: tuple[Skipped, ...] = ()
    ignored: int = 0
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        n = len(self.images)
        if self.images.ndim != 4 or self.images.dtype != np.uint8 or self.images.shape[3] not in (1, 3):
            raise ValueError(f"images must be uint8 [N, H, W, 1 or 3], got {self.images.dtype} {self.images.shape}")
        if not (len(self.labels) == len(self.ids) == len(self.parts) == n):
            raise ValueError(f"{n} images, {len(self.labels)} labels, {len(self.ids)} ids, {len(self.parts)} parts")
        if n == 0:
            raise DataError(f"{self.name}: no usable picture; {len(self.skipped)} were skipped")
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
        """Return (C, H, W), the order in which networks speak of their input."""
        _, height, width, channels = self.images.shape
        return channels, height, width

    @cached_property
    def fingerprint(self) -> str:
        """Return the sha256 of pixels, labels, parts, ids and class names."""
        digest = hashlib.sha256(repr((self.images.shape, self.class_names)).encode())
        digest.update(np.ascontiguousarray(self.images).data)
        digest.update(np.ascontiguousarray(self.labels).data)
        digest.update("\n".join(self.parts).encode())
        digest.update("\n".join(self.ids).encode())
        return digest.hexdigest()

    @cached_property
    def digests(self) -> NDArray[np.uint64]:
        """Return a hash of the pixels of each picture, uint64 [N]."""
        return pixel_digests(self.images)

    def take(self, indices: NDArray[np.int64]) -> ImageSet:
        """Return the set of these pictures only, in this order."""
        return replace(
            self,
            images=self.images[indices],
            labels=self.labels[indices],
            ids=tuple(self.ids[i] for i in indices),
            parts=tuple(self.parts[i] for i in indices),
        )


def pixel_digests(images: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return a hash of each picture [N, H, W, C], uint64 [N]."""
    pixels = np.ascontiguousarray(images).reshape(len(images), -1)

    def digest(part: slice) -> bytes:
        return b"".join(hashlib.blake2b(row.data, digest_size=8).digest() for row in pixels[part])

    return np.frombuffer(b"".join(map_slices(digest, len(pixels))), np.uint64)

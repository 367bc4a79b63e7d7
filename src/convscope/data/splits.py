"""Cutting a data set into train, validation and test parts: stratified, seeded, and with no picture on two sides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from convscope.config import SPLIT_WITH_TEST_PART, SPLIT_WITHOUT_TEST_PART, DataConfig
from convscope.data.duplicates import Duplicates, find_duplicates, members_of
from convscope.data.image_set import PARTS, ImageSet
from convscope.errors import DataError
from convscope.randomness import permutation

UNPLACED = -1
"""In place of a part's number, where the part of a picture is still to be chosen."""


@dataclass(frozen=True)
class Splits:
    """Which pictures belong to which part: ascending indices into the ImageSet, int64, no index twice.

    Args:
        groups: index of the first of the pictures that a picture is a duplicate or near duplicate of, int64 [N].
        notes: what had to be decided about duplicates and tiny classes, one printable line each.
    """

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]
    groups: NDArray[np.int64]
    notes: tuple[str, ...] = ()

    def items(self) -> Iterator[tuple[str, NDArray[np.int64]]]:
        """Yield (part name, indices) in the order train, validation, test."""
        for part in PARTS:
            yield part, getattr(self, part)

    def leaked(self, part: str) -> NDArray[np.int64]:
        """Return the pictures of a part that a part before it has too, or nearly so: learned from, or chosen by."""
        before = [getattr(self, other) for other in PARTS[: PARTS.index(part)]]
        indices: NDArray[np.int64] = getattr(self, part)
        return indices[np.isin(self.groups[indices], self.groups[np.concatenate([*before, indices[:0]])])]

    def rows(self, images: ImageSet) -> Iterator[tuple[str, str, str]]:
        """Yield the rows of split.csv, (picture, label, split), in the order of the data set."""
        part_of = np.empty(len(images), dtype=object)
        for part, indices in self.items():
            part_of[indices] = part
        for picture, label, part in zip(images.ids, images.labels, part_of, strict=True):
            yield picture, images.class_names[label], part


def make_splits(images: ImageSet, config: DataConfig) -> Splits:
    """Return the three parts of a data set.

    Parts that the source assigns are kept. What is left over is divided class by class, so that every part has the
    classes in the same proportion; duplicates and near duplicates go to one part together.

    Raises:
        DataError: a class has too few pictures to be both trained on and tested.
    """
    duplicates = find_duplicates(images.images, images.digests)
    groups = duplicates.groups
    shares, notes = _shares(images, config), duplicate_notes(images, duplicates)
    part_of = np.array([PARTS.index(part) if part in ("validation", "test") else UNPLACED for part in images.parts])
    for label, name in enumerate(images.class_names):
        ours = np.flatnonzero((images.labels == label) & (part_of == UNPLACED))
        if len(ours) == 0:
            continue
        _, first, group_of = np.unique(groups[ours], return_index=True, return_inverse=True)
        by_appearance = np.argsort(first)
        order = by_appearance[permutation(len(first), config.split_seed, "split", label)]
        counts = _part_sizes(len(order), shares, class_name=name, notes=notes)
        part_of_group = np.empty(len(order), dtype=part_of.dtype)
        part_of_group[order] = np.repeat([PARTS.index(part) for part in counts], list(counts.values()))
        part_of[ours] = part_of_group[group_of]
    _move_straddling(part_of, images, groups)
    train, validation, test = (np.flatnonzero(part_of == place) for place in range(len(PARTS)))
    if len(train) == 0:
        raise DataError(f"{images.name}: no picture is left to train on; give train a larger share with --split")
    splits = Splits(train, validation, test, groups)
    return replace(splits, notes=(*notes, *_leak_notes(images, splits, duplicates)))


def _shares(images: ImageSet, config: DataConfig) -> dict[str, float]:
    """Return the fraction of the pictures that are ours to place for each part; 0 where the source has the part."""
    present = set(images.parts)
    default = SPLIT_WITH_TEST_PART if "test" in present else SPLIT_WITHOUT_TEST_PART
    percent = dict(zip(PARTS, config.split or default, strict=True))
    for part in ("validation", "test"):
        if part in present:
            percent[part] = 0.0
    total = sum(percent.values())
    return {part: share / total for part, share in percent.items()}


def _part_sizes(n: int, shares: dict[str, float], *, class_name: str, notes: list[str]) -> dict[str, int]:
    """Return how many of a class's n distinct pictures go to test, validation and train, in this order."""
    wanted = [part for part in ("test", "validation") if shares[part] > 0]
    sizes = {part: max(1, round(n * shares[part])) for part in wanted}
    if "test" in sizes and n < 2:
        raise DataError(
            f"class {class_name!r} has {n} picture (duplicates counted once), too few to train and test on; "
            "add pictures, remove the class, or give the data a test part of its own"
        )
    if "validation" in sizes and n <= len(sizes):
        del sizes["validation"]
        notes.append(f"class {class_name!r} has only {n} picture(s) to divide: none of them is in the validation part")
    while sum(sizes.values()) >= n and max(sizes.values(), default=0) > 1:
        sizes[max(sizes, key=lambda part: sizes[part])] -= 1
    return sizes | {"train": n - sum(sizes.values())}


def _move_straddling(part_of: NDArray[np.int64], images: ImageSet, groups: NDArray[np.int64]) -> None:
    """Bring duplicates across two classes to one part, in place: the last of the three that holds one of them.

    Only pictures that are ours to place are moved; a leak between parts of the source is reported, not repaired.
    """
    home = np.full(groups.max(initial=-1) + 1, UNPLACED)
    np.maximum.at(home, groups, part_of)
    for index in np.flatnonzero(home[groups] != part_of):
        if images.parts[index] in ("", "train") and PARTS[home[groups[index]]] not in images.parts:
            part_of[index] = home[groups[index]]


def duplicate_notes(images: ImageSet, duplicates: Duplicates) -> list[str]:
    """Return what there is to say about pictures that are there more than once: how many, and in two classes."""
    notes, equal = [], members_of(duplicates.equal)
    if equal:
        extra = sum(map(len, equal)) - len(equal)
        notes.append(f"duplicates: {extra} pictures repeat another one pixel by pixel; copies stay in one part")
    near = members_of(duplicates.groups) if len(duplicates.near) else []
    pairs = "pair" if len(duplicates.near) == 1 else "pairs"
    text = f"near duplicates: {{}} {pairs} of pictures that look the same without being equal stay in one part"
    notes += _example(text, len(duplicates.near), list(duplicates.near), images)
    labels = images.labels
    conflicts = [members for members in near or equal if len(set(labels[members].tolist())) > 1]
    notes += _example("conflict: {} pictures stand in two classes", len(conflicts), conflicts, images)
    return notes


def _leak_notes(images: ImageSet, splits: Splits, duplicates: Duplicates) -> list[str]:
    """Return a note on pictures to be measured on that parts before theirs have too."""
    part = "test" if len(splits.test) else "validation"
    leaked = splits.leaked(part)
    if not len(leaked):
        return []
    others = np.concatenate([splits.train, splits.validation] if part == "test" else [splits.train])
    exact = int(np.isin(duplicates.equal[leaked], duplicates.equal[others]).sum())
    pairs = [(i, others[np.flatnonzero(splits.groups[others] == splits.groups[i])[0]]) for i in leaked[:1]]
    text = f"leak: {{}} {part} pictures are in the source's other parts too ({exact} pixel by pixel)"
    return _example(text, len(leaked), pairs, images)


def _example(text: str, count: int, groups: Sequence[Sequence[int] | NDArray[np.int64]], images: ImageSet) -> list[str]:
    if not len(groups):
        return []
    return [text.format(count) + ", for example " + " = ".join(images.ids[i] for i in groups[0][:3])]

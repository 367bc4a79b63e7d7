"""Training, validation and test splits of a data set: stratified, seeded, and with no image in two of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from convscope.config import SPLIT_WITH_TEST, SPLIT_WITHOUT_TEST, DataConfig
from convscope.data.dataset import SPLITS, ImageSet
from convscope.data.duplicates import Duplicates, find_duplicates, members_of
from convscope.errors import DataError
from convscope.seeds import permutation

UNASSIGNED = -1
"""Instead of a split's number, for an image that has no split yet."""


@dataclass(frozen=True)
class Splits:
    """Which images belong to which split: ascending indices into the ImageSet, int64, no index twice.

    Args:
        groups: as in Duplicates, int64 [N]: images of one group are duplicates or near duplicates.
        notes: decisions on duplicates and tiny classes, one printable line each.
    """

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]
    groups: NDArray[np.int64]
    notes: tuple[str, ...] = ()

    def items(self) -> Iterator[tuple[str, NDArray[np.int64]]]:
        """Yield (name, indices) of each split in the order train, validation, test."""
        for split in SPLITS:
            yield split, getattr(self, split)

    def leaked(self, split: str) -> NDArray[np.int64]:
        """Return the images of a split that an earlier split has too, or nearly so."""
        before = [getattr(self, other) for other in SPLITS[: SPLITS.index(split)]]
        indices: NDArray[np.int64] = getattr(self, split)
        return indices[np.isin(self.groups[indices], self.groups[np.concatenate([*before, indices[:0]])])]

    def rows(self, images: ImageSet) -> Iterator[tuple[str, str, str]]:
        """Yield the rows of split.csv, (image, label, split), in the order of the data set."""
        split_of = np.empty(len(images), dtype=object)
        for split, indices in self.items():
            split_of[indices] = split
        for image, label, split in zip(images.ids, images.labels, split_of, strict=True):
            yield image, images.class_names[label], split


def make_splits(images: ImageSet, config: DataConfig) -> Splits:
    """Return the three splits of a data set.

    Splits that the source assigns are kept. The remaining images are divided class by class, so that every split has
    the classes in the same proportion; duplicates and near duplicates stay in one split.

    Raises:
        DataError: a class has too few images to be both trained on and tested.
    """
    duplicates = find_duplicates(images.images, images.digests)
    groups = duplicates.groups
    shares, notes = _shares(images, config), duplicate_notes(images, duplicates)
    split_of = np.array(
        [SPLITS.index(split) if split in ("validation", "test") else UNASSIGNED for split in images.source_splits]
    )
    for label, name in enumerate(images.class_names):
        ours = np.flatnonzero((images.labels == label) & (split_of == UNASSIGNED))
        if len(ours) == 0:
            continue
        _, first, group_of = np.unique(groups[ours], return_index=True, return_inverse=True)
        by_appearance = np.argsort(first)
        order = by_appearance[permutation(len(first), config.split_seed, "split", label)]
        counts = _split_sizes(len(order), shares, class_name=name, notes=notes)
        split_of_group = np.empty(len(order), dtype=split_of.dtype)
        split_of_group[order] = np.repeat([SPLITS.index(split) for split in counts], list(counts.values()))
        split_of[ours] = split_of_group[group_of]
    _move_straddling(split_of, images, groups)
    train, validation, test = (np.flatnonzero(split_of == place) for place in range(len(SPLITS)))
    if len(train) == 0:
        raise DataError(f"{images.name}: no image is left for the training split; give it a larger share with --split")
    splits = Splits(train, validation, test, groups)
    return replace(splits, notes=(*notes, *_leak_notes(images, splits, duplicates)))


def _shares(images: ImageSet, config: DataConfig) -> dict[str, float]:
    """Return which fraction of the unassigned images goes to each split; 0 where the source has that split."""
    present = set(images.source_splits)
    default = SPLIT_WITH_TEST if "test" in present else SPLIT_WITHOUT_TEST
    percent: dict[str, float] = dict(zip(SPLITS, config.split or default, strict=True))
    percent |= dict.fromkeys(present & {"validation", "test"}, 0.0)
    total = sum(percent.values())
    return {split: share / total for split, share in percent.items()}


def _split_sizes(n: int, shares: dict[str, float], *, class_name: str, notes: list[str]) -> dict[str, int]:
    """Return how many of a class's n distinct images go to test, validation and train, in this order."""
    wanted = [split for split in ("test", "validation") if shares[split] > 0]
    sizes = {split: max(1, round(n * shares[split])) for split in wanted}
    if "test" in sizes and n < 2:
        raise DataError(
            f"class {class_name!r} has {n} image (duplicates counted once), too few to train and test on; "
            "add images, remove the class, or give the data a test split of its own"
        )
    if "validation" in sizes and n <= len(sizes):
        del sizes["validation"]
        notes.append(f"class {class_name!r} has only {n} image(s) to divide: none of them is in the validation split")
    while sum(sizes.values()) >= n and max(sizes.values(), default=0) > 1:
        sizes[max(sizes, key=lambda split: sizes[split])] -= 1
    return sizes | {"train": n - sum(sizes.values())}


def _move_straddling(split_of: NDArray[np.int64], images: ImageSet, groups: NDArray[np.int64]) -> None:
    """Bring duplicates across two classes to one split, in place: the last of the three that holds one of them.

    Only images without a split of the source are moved; a leak between the source's splits is reported, not repaired.
    """
    split_of_group = np.full(groups.max(initial=-1) + 1, UNASSIGNED)
    np.maximum.at(split_of_group, groups, split_of)
    for index in np.flatnonzero(split_of_group[groups] != split_of):
        split = split_of_group[groups[index]]
        if images.source_splits[index] in ("", "train") and SPLITS[split] not in images.source_splits:
            split_of[index] = split


def duplicate_notes(images: ImageSet, duplicates: Duplicates) -> list[str]:
    """Return notes on duplicates: how many there are, and which are in two classes."""
    notes, equal = [], members_of(duplicates.equal)
    if equal:
        extra = sum(map(len, equal)) - len(equal)
        notes.append(f"duplicates: {extra} images repeat another one pixel by pixel; copies stay in one split")
    near = members_of(duplicates.groups) if len(duplicates.near) else []
    pairs = "pair" if len(duplicates.near) == 1 else "pairs"
    text = f"near duplicates: {{}} {pairs} of images that look the same without being equal stay in one split"
    notes += _example(text, len(duplicates.near), list(duplicates.near), images)
    labels = images.labels
    conflicts = [members for members in near or equal if len(set(labels[members].tolist())) > 1]
    notes += _example("conflict: {} images are in two classes", len(conflicts), conflicts, images)
    return notes


def _leak_notes(images: ImageSet, splits: Splits, duplicates: Duplicates) -> list[str]:
    """Return a note on evaluated images that an earlier split has too."""
    split = "test" if len(splits.test) else "validation"
    leaked = splits.leaked(split)
    if not len(leaked):
        return []
    others = np.concatenate([splits.train, splits.validation] if split == "test" else [splits.train])
    exact = int(np.isin(duplicates.equal[leaked], duplicates.equal[others]).sum())
    pairs = [(i, others[np.flatnonzero(splits.groups[others] == splits.groups[i])[0]]) for i in leaked[:1]]
    text = f"leak: {{}} {split} images are in the source's other splits too ({exact} pixel by pixel)"
    return _example(text, len(leaked), pairs, images)


def _example(text: str, count: int, groups: Sequence[Sequence[int] | NDArray[np.int64]], images: ImageSet) -> list[str]:
    if not len(groups):
        return []
    return [text.format(count) + ", for example " + " = ".join(images.ids[i] for i in groups[0][:3])]

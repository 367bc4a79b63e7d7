"""Training, validation and test splits of a data set: stratified, seeded, and with no image in two of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from convscope.config import SPLIT_WITH_TEST, SPLIT_WITHOUT_TEST, DataConfig
from convscope.data.dataset import SPLITS, ImageSet
from convscope.data.duplicates import LEAST_PX, Duplicates, find_duplicates, members_of
from convscope.errors import DataError
from convscope.seeds import permutation

UNASSIGNED = -1
"""Instead of a split's number, for an image that has no split yet."""
FINE_SHARE = 0.02
"""Groups of duplicates are placed by size where a split's share of a class would be further off than this."""
OFF_SHARE = 0.1
"""A share further from the wanted one is noted."""
SHOWN_NOTES = 5
"""Classes whose shares are noted one by one."""


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
    duplicates = find_duplicates(images.images, images.digests, images.labels, config.near_duplicates)
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
        counts = _split_sizes(len(order), len(ours), shares, class_name=name, notes=notes)
        split_of[ours] = _place_groups(order, np.bincount(group_of), counts, shares)[group_of]
    _move_straddling(split_of, images, groups)
    notes += _share_notes(images, split_of, shares, duplicates)
    train, validation, test = (np.flatnonzero(split_of == place) for place in range(len(SPLITS)))
    if len(train) == 0:
        raise DataError(f"{images.name}: no image is left for the training split; give it a larger share with --split")
    splits = Splits(train, validation, test, groups)
    return replace(splits, notes=(*notes, *_leak_notes(images, splits, duplicates)))


def recorded_splits(images: ImageSet, split_of: Mapping[str, str], config: DataConfig) -> Splits:
    """Return the splits of a run, given the split of each image by its id; images unlike those are split again.

    The images a network was trained on stay training images even if another version would divide them differently.
    """
    if split_of.keys() != set(images.ids) or not set(split_of.values()) <= set(SPLITS):
        return make_splits(images, config)
    groups = find_duplicates(images.images, images.digests, images.labels, config.near_duplicates).groups
    found = np.array([SPLITS.index(split_of[id_]) for id_ in images.ids])
    train, validation, test = (np.flatnonzero(found == place) for place in range(len(SPLITS)))
    return Splits(train, validation, test, groups)


def _shares(images: ImageSet, config: DataConfig) -> dict[str, float]:
    """Return which fraction of the unassigned images goes to each split; 0 where the source has that split."""
    present = set(images.source_splits)
    default = SPLIT_WITH_TEST if "test" in present else SPLIT_WITHOUT_TEST
    percent: dict[str, float] = dict(zip(SPLITS, config.split or default, strict=True))
    percent |= dict.fromkeys(present & {"validation", "test"}, 0.0)
    total = sum(percent.values())
    return {split: share / total for split, share in percent.items()}


def _split_sizes(
    n: int, num_images: int, shares: dict[str, float], *, class_name: str, notes: list[str]
) -> dict[str, int]:
    """Return how many of a class's n distinct images go to test, validation and train, in this order."""
    wanted = [split for split in ("test", "validation") if shares[split] > 0]
    sizes = {split: max(1, round(n * shares[split])) for split in wanted}
    if "test" in sizes and n < 2:
        apart = ", or count near duplicates as images of their own with --near-duplicates keep" * (num_images > 1)
        raise DataError(
            f"class {class_name!r} has {n} image (duplicates counted once), too few to train and test on; "
            f"add images, remove the class, or give the data a test split of its own{apart}"
        )
    if "validation" in sizes and n <= len(sizes):
        del sizes["validation"]
        notes.append(f"class {class_name!r} has only {n} image(s) to divide: none of them is in the validation split")
    while sum(sizes.values()) >= n and max(sizes.values(), default=0) > 1:
        sizes[max(sizes, key=lambda split: sizes[split])] -= 1
    return sizes | {"train": n - sum(sizes.values())}


def _place_groups(
    order: NDArray[np.int64], sizes: NDArray[np.int64], counts: dict[str, int], shares: dict[str, float]
) -> NDArray[np.int64]:
    """Return the split of each group of duplicates of a class, int64 [G], given the images in each, int64 [G].

    Groups are counted off in this random order. Where large groups make the shares of images wrong, they are placed
    by size instead, the largest first, each where most images are still wanted.
    """
    places = [SPLITS.index(split) for split in counts if counts[split]]
    wanted = {place: shares[SPLITS[place]] * int(sizes.sum()) for place in places}

    def distance(split_of: NDArray[np.int64]) -> float:
        return max(abs(int(sizes[split_of == place].sum()) - wanted[place]) for place in places)

    counted = np.empty(len(order), np.int64)
    counted[order] = np.repeat([SPLITS.index(split) for split in counts], list(counts.values()))
    if sizes.max() == 1 or distance(counted) <= max(1, FINE_SHARE * sizes.sum()):
        return counted
    by_size, missing, empty = np.empty_like(counted), dict(wanted), list(places)
    for number, group in enumerate(order[np.argsort(-sizes[order], kind="stable")]):
        place = max(empty if len(order) - number <= len(empty) else places, key=missing.__getitem__)
        by_size[group] = place
        missing[place] -= int(sizes[group])
        empty = [each for each in empty if each != place]
    return by_size if distance(by_size) < distance(counted) else counted


def _move_straddling(split_of: NDArray[np.int64], images: ImageSet, groups: NDArray[np.int64]) -> None:
    """Bring duplicates across two classes to one split, in place: that of most of them, the last of several such.

    Only images without a split of the source are moved; a leak between the source's splits is reported, not repaired.
    """
    counts = np.zeros((groups.max(initial=-1) + 1, len(SPLITS)), np.int64)
    np.add.at(counts, (groups, split_of), 1)
    split_of_group = len(SPLITS) - 1 - counts[:, ::-1].argmax(axis=1)
    for index in np.flatnonzero(split_of_group[groups] != split_of):
        split = split_of_group[groups[index]]
        if images.source_splits[index] in ("", "train") and SPLITS[split] not in images.source_splits:
            split_of[index] = split


def _share_notes(
    images: ImageSet, split_of: NDArray[np.int64], shares: dict[str, float], duplicates: Duplicates
) -> list[str]:
    """Return a note for each class whose share of a split is more than OFF_SHARE from the share that was wanted."""
    divided = np.array([split not in ("validation", "test") for split in images.source_splits])
    way_out = "; --near-duplicates keep divides near duplicates" if len(duplicates.near) else ""
    notes = []
    for label, name in enumerate(images.class_names):
        own = split_of[divided & (images.labels == label)]
        found = {split: int((own == place).sum()) for place, split in enumerate(SPLITS)}
        split = max(SPLITS, key=lambda each: abs(found[each] - shares[each] * len(own)))
        if abs(found[split] - shares[split] * len(own)) > max(1.5, OFF_SHARE * len(own)):
            where = f"{found[split]} of {len(own)} images are in the {'training' if split == 'train' else split} split"
            wanted = f"{shares[split]:.0%} were wanted, because duplicates stay in one split{way_out}"
            notes.append(f"class {name!r}: {where}; {wanted}")
    more = len(notes) - SHOWN_NOTES
    return [*notes[:SHOWN_NOTES], *([f"the same holds for {more} more classes"] if more > 0 else [])]


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
    if duplicates.unclear and min(images.shape[1:]) >= LEAST_PX:
        notes.append(f"{duplicates.unclear}; only images that are equal pixel by pixel stay in one split")
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

"""Split and class of each file, and whether the classes of a source can be trained on.

A CSV names them; for a folder on disk and an archive the folders do, by the rule in layout.py.

- Images directly in the root or in a split folder belong to no class; they are skipped.
- Classes are sorted by name, numbers in it by value (2 before 10), images by path, so a folder and any archive of it
  give the same ImageSet.
- accepted + skipped = found, always; files that are never images are counted separately.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from convscope.data.names import SHOWN_NAMES, first_names, printable
from convscope.data.sources.layout import SPLIT_OF_WORD, find_layout
from convscope.errors import DataError, NoLabels
from convscope.results.prediction import Skipped

EXPECTED_FOLDERS = "expected class/image.jpg, or train/class/image.jpg with validation and test beside train"
NO_CLASS = "belongs to no class"
"""Why an image without a label is skipped."""


class Label(NamedTuple):
    """The split that the source assigns ("": none) and the class, as the source spells it."""

    split: str
    class_name: str


@dataclass(frozen=True)
class LabelRule:
    """How the files of a source get their labels.

    Args:
        label_of: returns the label of a file by its name, None if it belongs to no class.
        labels: every label there is, whether images were found for it or not.
        classes_named_by: returns the classes, printable, that the printable path of a skipped file may belong to.
        classes_may_be_splits: whether folders taken for classes could have been meant as splits.
        expected: what a source of this kind looks like, for messages.
        notes: what was understood from names, one printable line each.
        problem: why these cannot be the classes; "" if they can.
    """

    label_of: Callable[[str], Label | None]
    labels: frozenset[Label]
    classes_named_by: Callable[[str], Collection[str]]
    classes_may_be_splits: bool
    expected: str
    notes: tuple[str, ...] = ()
    problem: str = ""

    def label_files(self, names: Sequence[str]) -> tuple[dict[str, Label], list[Skipped]]:
        """Return the labels of images by their names, in this order, and the verdicts on those that have none."""
        labels = {name: label for name in names if (label := self.label_of(name)) is not None}
        remedy = f"move it into a class folder; {self.expected}"
        return labels, [Skipped(printable(name), NO_CLASS, remedy) for name in names if name not in labels]


def folder_label_rule(folders: Collection[str], with_images: Collection[str]) -> LabelRule:
    """Return the rule that labels files by their class folders.

    It takes all folders, with those above them, and which directly hold an accepted image ("": the source itself).
    """
    layout = find_layout(folders, with_images)

    def label_of(file: str) -> Label | None:
        found = layout.label_of(file)
        return None if found is None else Label(*found)

    labels = (label_of(f"{folder}/") for folder in folders)
    return LabelRule(
        label_of=label_of,
        labels=frozenset(label for label in labels if label is not None),
        classes_named_by=lambda file: file.split("/"),
        classes_may_be_splits=set(layout.split_of.values()) == {""},
        expected=EXPECTED_FOLDERS,
        notes=layout.notes,
        problem=layout.problem,
    )


def natural_order(name: str) -> tuple[list[str | tuple[int, str]], str]:
    """Return what names are sorted by: text as it is, numbers by value."""
    parts = re.split("([0-9]+)", name)
    numbers = [part.lstrip("0") for part in parts]
    return [(len(numbers[i]), numbers[i]) if i % 2 else part for i, part in enumerate(parts)], name


def check_classes(
    name: str,
    rule: LabelRule,
    counts: Mapping[Label, int],
    skipped: Sequence[Skipped],
    *,
    drop_empty: bool,
    to_train: bool = True,
) -> tuple[list[str], list[str]]:
    """Return the class names in label order and notes on them, given the number of images of each label.

    Raises:
        NoLabels: there are images, but none of a class.
        DataError: the classes cannot be trained on; not raised without `to_train`.
    """
    classes = sorted({label.class_name for label in rule.labels}, key=natural_order)
    if rule.problem:
        raise DataError(f"{name}: {rule.problem}")
    if not counts:
        unlabelled = any(item.reason == NO_CLASS for item in skipped)
        raise (NoLabels if unlabelled else DataError)(
            f"{name}: no usable image of a class{_reasons(skipped)}; {rule.expected}{_table_hint(skipped)}"
        )
    if rule.classes_may_be_splits and all(class_name.lower() in SPLIT_OF_WORD for class_name in classes):
        raise DataError(
            f"{name}: the folders {first_names(classes)} look like splits but hold images instead of class folders; "
            f"{rule.expected}"
        )
    filled = sorted({label.class_name for label in counts}, key=natural_order)
    empty = [class_name for class_name in classes if class_name not in filled]
    if empty and to_train and not drop_empty:
        shown = set(map(printable, empty))
        reasons = [item for item in skipped if not shown.isdisjoint(rule.classes_named_by(item.file))]
        raise DataError(
            f"{name}: no usable image of class {first_names(empty)}{_reasons(reasons)}; "
            "add images, remove the class, or leave such classes out with --drop-empty"
        )
    if not to_train:
        return filled, _similar_names(filled)
    if len(filled) < 2:
        hint = rule.expected + _table_hint(skipped)
        raise DataError(f"{name}: only one class, {first_names(filled)}; a classifier needs two. {hint}")
    notes = [f"class {printable(class_name)} is empty and was left out" for class_name in empty]
    return filled, [*rule.notes, *notes, *_split_notes(name, counts), *_similar_names(filled)]


def _split_notes(name: str, counts: Mapping[Label, int]) -> list[str]:
    """Return a note for classes that a split lacks; raise DataError for classes without a training image."""
    by_split: dict[str, set[str]] = defaultdict(set)
    for split, class_name in counts:
        by_split[split].add(class_name)
    if "train" not in by_split:
        return []
    trained = by_split.pop("train") | by_split.pop("", set())  # most images without a split become training images
    notes = []
    for split, classes in sorted(by_split.items()):
        if classes - trained:
            raise DataError(
                f"{name}: the {split} split has classes that the train split lacks: "
                f"{first_names(sorted(classes - trained))} (train has {first_names(sorted(trained))}); "
                f"rename or remove these classes{_alike_hint(classes - trained, trained)}"
            )
        if trained - classes:
            notes.append(f"the {split} split has no image of {first_names(sorted(trained - classes))}")
    return notes


def _alike_hint(names: Collection[str], others: Collection[str]) -> str:
    """Return the names that look like one of the others, as their characters tell them apart."""
    look_of = {other: _look(other) for other in others}
    pairs = [(name, other) for name in sorted(names) for other in look_of if _look(name) == look_of[other]]
    return "".join(f"; {name!a} and {other!a} look the same" for name, other in pairs[:SHOWN_NAMES])


def _look(class_name: str) -> str:
    return unicodedata.normalize("NFC", class_name).casefold()


def _similar_names(class_names: Sequence[str]) -> list[str]:
    """Return a note for class names that look the same."""
    similar: dict[str, list[str]] = defaultdict(list)
    for class_name in class_names:
        similar[_look(class_name)].append(class_name)
    return [
        f"class names {' and '.join(map(ascii, names))} differ only in capitals or Unicode form and are kept apart"
        for names in similar.values()
        if len(names) > 1
    ]


def _table_hint(skipped: Sequence[Skipped]) -> str:
    """Return a hint at a table beside the images that may name their classes."""
    table = next((item.file for item in skipped if item.file.lower().endswith((".csv", ".tsv"))), None)
    return f". If {table} names the classes, give it as the data, with the columns path,label" if table else ""


def _reasons(skipped: Sequence[Skipped]) -> str:
    """Return why the first few files were skipped, ready to follow a statement."""
    if not skipped:
        return ""
    shown = ", ".join(f"{item.file}: {item.reason}" for item in skipped[:3])
    return f" ({len(skipped)} skipped: {shown}{', ...' if len(skipped) > 3 else ''})"

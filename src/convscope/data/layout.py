"""Which part and class a file belongs to; the rules that a folder on disk and an archive share:

    class/...                                      every file below a class folder belongs to it, however deep
    train|val|valid|validation|test/class/...      the same, with the parts the source itself assigns

- Folders around these are looked through: while a folder holds no picture itself and exactly one folder, which again
  holds folders only, that one is the root (`cifar10/train/cat/1.jpg`, `PetImages/Cat/1.jpg`).
- A folder named like a part is one only if its pictures lie in sub-folders; `bus/1.jpg, car/1.jpg, train/1.jpg` are
  three classes. `training` and `testing` are understood too, and capitals do not matter in these names.
- Pictures directly in the root or in a part folder belong to no class; they are listed.
- Classes are sorted by name, pictures by path, so a folder and any archive of it give the same ImageSet.
- accepted + listed = found, always; files that are never pictures are counted apart.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from convscope.data.intake import Stamp, printable
from convscope.data.store import Contents
from convscope.errors import DataError
from convscope.pictures import Skipped

PART_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
"""Folder name in lower case -> part."""
SHOWN_NAMES = 10
"""How many file names a note or an error lists before it says "and n more"."""
EXPECTED = "expected class/picture.jpg, or train/class/picture.jpg with validation and test beside train"

PathParts = tuple[str, ...]
"""The parts of a path relative to the source, as the source spells them."""


@dataclass
class Listing:
    """What a walk through a source meets besides files to decode; the walk fills it while it yields entries."""

    folders: set[PathParts] = field(default_factory=set)
    skipped: list[Skipped] = field(default_factory=list)
    ignored: int = 0

    def contents(self, stamp: Stamp) -> Contents | None:
        """Return this as the store keeps it of the archive of this stamp; None of a folder, which is walked anew."""
        if not stamp:
            return None
        folders = tuple(sorted("/".join(folder) for folder in self.folders))
        return Contents(stamp, folders, tuple(self.skipped), self.ignored)

    def recall(self, contents: Contents) -> None:
        """Fill this with what the store keeps of an archive."""
        self.folders = {tuple(folder.split("/")) for folder in contents.folders}
        self.skipped, self.ignored = list(contents.skipped), contents.ignored


@dataclass(frozen=True)
class Homes:
    """Which part and class the files of a source belong to.

    Args:
        of: returns (part, class) of a file, None where it belongs to no class.
        all: every (part, class) there is, whether pictures were found for it or not.
        named_by: returns, printable, what the printable path of a skipped file says of its class.
        may_be_parts: whether the names of the classes could be meant as parts.
        expected: what a source of this kind looks like, for messages.
    """

    of: Callable[[PathParts], tuple[str, str] | None]
    all: frozenset[tuple[str, str]]
    named_by: Callable[[str], Collection[str]]
    may_be_parts: bool
    expected: str


FindHomes = Callable[[Collection[PathParts], Container[PathParts]], Homes]
"""Takes all folders, with the folders above them, and those that directly hold an accepted picture."""


@dataclass(frozen=True)
class _Layout:
    """Where the class folders lie: below `root`, or one level further down in part folders."""

    root: PathParts
    has_parts: bool

    def home(self, file: PathParts) -> tuple[str, str] | None:
        """Return (part, class) of a file, None where it belongs to no class."""
        below = file[len(self.root) :]
        if file[: len(self.root)] != self.root:
            return None
        if not self.has_parts:
            return ("", below[0]) if len(below) >= 2 else None
        part = PART_FOLDERS.get(below[0].lower())
        return (part, below[1]) if part and len(below) >= 3 else None


def folder_homes(folders: Collection[PathParts], with_pictures: Container[PathParts]) -> Homes:
    """Return where files belong by the class folders that they are in."""
    layout = _find_layout(folders, with_pictures)
    class_folders = (layout.home((*folder, "")) for folder in folders)
    return Homes(
        of=layout.home,
        all=frozenset(home for home in class_folders if home is not None),
        named_by=lambda file: file.split("/"),
        may_be_parts=not layout.has_parts,
        expected=EXPECTED,
    )


def _find_layout(folders: Iterable[PathParts], with_pictures: Container[PathParts]) -> _Layout:
    """Return where the class folders lie.

    Args:
        folders: all folders with the folders above them.
        with_pictures: those that directly hold an accepted picture.
    """
    children: dict[PathParts, set[str]] = defaultdict(set)
    for folder in folders:
        if folder:
            children[folder[:-1]].add(folder[-1])

    def is_part(folder: PathParts) -> bool:
        return folder[-1].lower() in PART_FOLDERS and folder not in with_pictures and bool(children[folder])

    root: PathParts = ()
    while True:
        below = [(*root, child) for child in children[root]]
        if any(map(is_part, below)):
            return _Layout(root, has_parts=True)
        if root in with_pictures or len(below) != 1 or below[0] in with_pictures or not children[below[0]]:
            return _Layout(root, has_parts=False)
        root = below[0]


def homeless(file: PathParts, homes: Homes) -> Skipped:
    """Return the verdict on a picture that belongs to no class."""
    return Skipped(shown(file), "belongs to no class", f"move it into a class folder; {homes.expected}")


def check_classes(
    name: str,
    homes: Homes,
    counts: Mapping[tuple[str, str], int],
    skipped: Sequence[Skipped],
    drop_empty: bool,
) -> tuple[list[str], list[str]]:
    """Return the class names in label order and notes on them, or raise DataError where they cannot be trained on."""
    classes = sorted({class_name for _, class_name in homes.all})
    if not counts:
        raise DataError(f"{name}: no usable picture of a class{_why(skipped)}; {homes.expected}")
    if homes.may_be_parts and all(class_name.lower() in PART_FOLDERS for class_name in classes):
        raise DataError(
            f"{name}: the folders {listed(classes)} look like parts but hold pictures, no class folders; "
            f"{homes.expected}"
        )
    filled = {class_name for _, class_name in counts}
    empty = [class_name for class_name in classes if class_name not in filled]
    notes = [f"class {printable(class_name)} is empty and was left out" for class_name in empty]
    if empty and not drop_empty:
        shown = set(map(printable, empty))
        reasons = [item for item in skipped if not shown.isdisjoint(homes.named_by(item.file))]
        raise DataError(
            f"{name}: no usable picture of class {listed(empty)}{_why(reasons)}; "
            "add pictures, remove the class, or leave such classes out with --drop-empty"
        )
    if len(filled) < 2:
        raise DataError(
            f"{name}: only one class, {listed(sorted(filled))}; telling classes apart takes two. {homes.expected}"
        )
    notes += _check_parts(name, counts)
    alike: dict[str, list[str]] = defaultdict(list)
    for class_name in sorted(filled):
        alike[unicodedata.normalize("NFC", class_name).casefold()].append(class_name)
    notes += [
        f"class names {' and '.join(map(ascii, names))} differ only in capitals or Unicode form and are kept apart"
        for names in alike.values()
        if len(names) > 1
    ]
    return sorted(filled), notes


def _check_parts(name: str, counts: Mapping[tuple[str, str], int]) -> list[str]:
    """Return a note for classes a part lacks; raise DataError for classes that there is no training picture of."""
    by_part: dict[str, set[str]] = defaultdict(set)
    for part, class_name in counts:
        by_part[part].add(class_name)
    if "train" not in by_part:
        return []
    trained = by_part.pop("train") | by_part.pop("", set())  # what is left to us is mostly trained on
    notes = []
    for part, classes in sorted(by_part.items()):
        if classes - trained:
            raise DataError(
                f"{name}: the {part} part has classes that the train part lacks: {listed(sorted(classes - trained))} "
                f"(train has {listed(sorted(trained))}); rename or remove these classes"
            )
        if trained - classes:
            notes.append(f"the {part} part has no picture of {listed(sorted(trained - classes))}")
    return notes


def _why(skipped: Sequence[Skipped]) -> str:
    """Return the first few reasons, ready to follow a statement."""
    if not skipped:
        return ""
    shown = ", ".join(f"{item.file}: {item.reason}" for item in skipped[:3])
    return f" ({len(skipped)} listed: {shown}{', ...' if len(skipped) > 3 else ''})"


def listed(names: Sequence[str]) -> str:
    """Return the first names, printable, and how many more there are."""
    shown = ", ".join(printable(name) for name in names[:SHOWN_NAMES])
    return shown + (f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else "")


def shown(file: PathParts) -> str:
    """Return a path as messages show it."""
    return printable("/".join(file))


def folders_above(folder: PathParts) -> set[PathParts]:
    """Return the folder and all above it but the source itself."""
    return {folder[:depth] for depth in range(1, len(folder) + 1)}

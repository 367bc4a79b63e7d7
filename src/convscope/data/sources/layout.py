"""Which folders are classes and which are splits; the same for a folder on disk and an archive.

    class/...                                      every file below a class folder belongs to it, however deep
    train|val|valid|validation|test/class/...      the same, with the splits that the source itself assigns
    class/train|val|valid|validation|test/...      the same

- Wrapping folders are looked through: while a folder holds no image itself and exactly one folder, which again holds
  folders only, that one is the root (`cifar10/train/cat/1.jpg`, `PetImages/Cat/1.jpg`). So are those in split folders
  (`train/train/cat/1.jpg`, `train/images/cat/1.jpg` where the other splits have one too).
- A folder named like a split is one only if its images lie in sub-folders; `bus/1.jpg, car/1.jpg, train/1.jpg` are
  three classes. `training` and `testing` are understood too, and capitals do not matter in these names.
- A name that contains such a word (`seg_train`, `test_set`) is a split where the class folders in it agree with those
  of another split, or where it holds one folder of its own name; that is noted.
- Classes that hold no image but the same folders as one another are refused: those folders may be the classes.
- Folders that convscope wrote are never data.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from convscope.data.names import first_names, folders_above, is_written, printable

SPLIT_OF_WORD = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
"""Name of a split folder or word in a CSV, in lower case -> split."""
_WORDS_IN_NAMES = SPLIT_OF_WORD | {"dev": "validation", "eval": "validation"}
"""The same for a word inside a longer name, or one that may as well be a class."""
_ENDINGS = ("set", "data", "images")


def split_named(name: str) -> str | None:
    """Return the split that a word in a name says (`seg_train`, `TestSet`, `val2017`), None for no or several splits.

    Example:
        >>> split_named("training_set"), split_named("dogs")
        ('train', None)
    """
    words = re.findall("[a-z]+", name.lower())
    words += [word.removesuffix(ending) for word in words for ending in _ENDINGS]
    found = {_WORDS_IN_NAMES[word] for word in words if word in _WORDS_IN_NAMES}
    return found.pop() if len(found) == 1 else None


@dataclass(frozen=True)
class FolderLayout:
    """Where the classes of a source are.

    Args:
        split_of: folder that holds class folders ("": the source itself) -> split of the images below ("": none).
        splits_in_classes: whether the folders in class folders are the splits.
        notes: what was read into the names of folders, one printable line each.
        problem: why the folders are not classes; "" if they are.
    """

    split_of: Mapping[str, str]
    splits_in_classes: bool = False
    notes: tuple[str, ...] = ()
    problem: str = ""

    def label_of(self, file: str) -> tuple[str, str] | None:
        """Return the split and class of a file, None if it belongs to no class."""
        for base, split in self.split_of.items():
            if base and not file.startswith(f"{base}/"):
                continue
            below = file[len(base) + 1 if base else 0 :].split("/")[:-1]
            if self.splits_in_classes and len(below) > 1:
                return SPLIT_OF_WORD.get(below[1].lower(), ""), below[0]
            return (split, below[0]) if below else None
        return None


def find_layout(folders: Iterable[str], with_images: Collection[str]) -> FolderLayout:
    """Return where the classes are, given all folders, with those above them, and which directly hold an image."""
    tree = _Tree(frozenset(folders), frozenset(with_images))
    root = ""
    while True:
        splits, notes = tree.splits_among(tree.children[root])
        if splits:
            return FolderLayout(splits, notes=notes)
        only = tree.only_wrapper(root)
        if only is None:
            return tree.classes_below(root)
        root = only


def written_folders(files: Iterable[str]) -> set[str]:
    """Return the folders that convscope wrote, given the paths of all files."""
    names: dict[str, set[str]] = defaultdict(set)
    for file in files:
        folder, _, name = file.rpartition("/")
        names[folder].add(name)
    return {folder for folder, inside in names.items() if folder and is_written(inside)}


@dataclass(frozen=True)
class _Tree:
    folders: frozenset[str]
    with_images: frozenset[str]

    @cached_property
    def children(self) -> Mapping[str, list[str]]:
        """Return the folders in each folder, sorted."""
        found: dict[str, list[str]] = defaultdict(list)
        for folder in sorted(self.folders):
            found[folder.rpartition("/")[0]].append(folder)
        return found

    @cached_property
    def populated(self) -> set[str]:
        """Return the folders below which there are images."""
        return set().union(*map(folders_above, self.with_images))

    def only_wrapper(self, folder: str) -> str | None:
        """Return the one folder in a folder where there is nothing else, and in that only folders."""
        below = self.children[folder]
        if folder in self.with_images or len(below) != 1 or below[0] in self.with_images or not self.children[below[0]]:
            return None
        return below[0]

    def splits_among(self, below: Collection[str]) -> tuple[dict[str, str], tuple[str, ...]]:
        """Return which of these folders are splits, each as the folder that holds its classes, and notes on guesses."""
        sure, likely = {}, {}
        for folder in below:
            if folder in self.with_images or not self.children[folder]:
                continue
            if (word := _name(folder).lower()) in SPLIT_OF_WORD:
                sure[folder] = SPLIT_OF_WORD[word]
            elif (split := split_named(word)) is not None:
                likely[folder] = split
        counts = list(likely.values())
        likely = {f: split for f, split in likely.items() if split not in sure.values() and counts.count(split) == 1}
        bases = {folder: self._inside(folder, split) for folder, split in (sure | likely).items()}
        while bases and all(self.only_wrapper(base) is not None for base in bases.values()):
            bases = {folder: self.only_wrapper(base) or base for folder, base in bases.items()}
        classes = {folder: set(map(_name, self.children[base])) for folder, base in bases.items()}
        doubled = {f for f in likely if len(below) > 1 and _name(self.only_wrapper(f) or "") == _name(f)}
        agreed = {f for f in likely if any(classes[f] & classes[other] for other in bases if other != f)}
        taken = [folder for folder in likely if folder in doubled | agreed]
        notes = [f"folder {printable(folder)} was taken for the {likely[folder]} split" for folder in taken]
        found = {bases[folder]: split for folder, split in (sure | likely).items() if folder in {*sure, *taken}}
        return found, tuple(notes)

    def _inside(self, folder: str, split: str) -> str:
        """Return the folder that holds the classes of a split, which may be one of the same name further inside."""
        while (only := self.only_wrapper(folder)) is not None and split_named(_name(only)) == split:
            folder = only
        return folder

    def classes_below(self, root: str) -> FolderLayout:
        """Return the layout of a source without split folders, whose class folders are in `root`."""
        classes, names = self.children[root], list(map(_name, self.children[root]))
        nested = {folder: self._names_inside(folder) for folder in classes if folder not in self.with_images}
        for folder, inside in nested.items():
            if len(others := inside & (set(names) - {_name(folder)})) >= 2:
                return FolderLayout({root: ""}, problem=_copy(folder, sorted(others)))
        if len(classes) < 2 or len(nested) < len(classes):
            return FolderLayout({root: ""})
        words = set().union(*nested.values())
        if all(nested.values()) and len(words) > 1 and all(word.lower() in SPLIT_OF_WORD for word in words):
            shown = first_names(sorted(words))
            return FolderLayout({root: ""}, True, (f"the folders {shown} in the class folders are the splits",))
        filled = [inside for inside in nested.values() if inside]
        common = set.intersection(*filled) if len(filled) > 1 else set()
        if len(common) < 2:
            return FolderLayout({root: ""})
        return FolderLayout({root: ""}, problem=_same_folders(names, sorted(common)))

    def _names_inside(self, folder: str) -> set[str]:
        """Return the names of the folders with images in a folder, wrappers looked through."""
        while (only := self.only_wrapper(folder)) is not None:
            folder = only
        return {_name(each) for each in self.children[folder] if each in self.populated}


def _name(folder: str) -> str:
    return folder.rpartition("/")[2]


def _copy(folder: str, names: list[str]) -> str:
    return (
        f"the folder {printable(folder)} holds folders of the same names as those beside it ({first_names(names)}), so "
        "it is a copy or a split of the data and not a class; give that folder alone as the data, or move it away"
    )


def _same_folders(names: list[str], common: list[str]) -> str:
    return (
        f"the folders {first_names(names)} hold no images but the same folders ({first_names(common)}), so these are "
        f"probably the classes, and {first_names(names)} splits of the data. Give one of them, for example "
        f"{printable(names[0])}; or rename them to train, validation and test; or, if they are the classes, "
        "list the images in a CSV with the columns path,label"
    )

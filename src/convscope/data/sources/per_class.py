"""`--per-class N`: which files are opened for N images of each class in each split, known before they are decoded."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from convscope.data.decode.decode import Decoded
from convscope.data.decode.files import Entry
from convscope.data.decode.formats import SUFFIXES
from convscope.data.sources.image_files import ImageFiles
from convscope.data.sources.labels import Label, LabelRule, natural_order
from convscope.results.prediction import Skipped
from convscope.seeds import permutation

Verdicts = dict[str, Decoded | Skipped]
_IMAGE_SUFFIXES = tuple(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)


def shuffled_classes(names: Iterable[str], rule: LabelRule, seed: int) -> dict[Label, list[str]]:
    """Return the files of each class in each split, in the random order in which they are taken."""
    members: dict[Label, list[str]] = {}
    for name in sorted(names, key=lambda name: name.split("/")):
        if (label := rule.label_of(name)) is not None:
            members.setdefault(label, []).append(name)
    class_names = sorted({label.class_name for label in members}, key=natural_order)
    shuffled = {}
    for label, of_label in members.items():
        words = "per-class", label.split, class_names.index(label.class_name)
        shuffled[label] = [of_label[place] for place in permutation(len(of_label), seed, *words)]
    return shuffled


def first_accepted(verdicts: Mapping[str, object], rule: LabelRule, per_class: int, seed: int) -> set[str]:
    """Return the images to keep where all files were opened: the first accepted ones of each class in each split."""
    kept: set[str] = set()
    for names in shuffled_classes(verdicts, rule, seed).values():
        kept.update([name for name in names if isinstance(verdicts[name], Decoded)][:per_class])
    return kept


def open_until_enough(
    files: ImageFiles, decode: Callable[[list[Entry]], Verdicts], per_class: int, seed: int
) -> tuple[Verdicts, list[str]] | None:
    """Return the verdicts on the opened files and the names of images that were not opened.

    None if what was found in the files changes which class they belong to: then all have to be opened.
    """
    entries = {entry.name: entry for entry in files.entries}
    rule = rule_with(files, {}, entries)
    waiting, verdicts = shuffled_classes(entries, rule, seed), Verdicts()
    chosen = [name for name in entries if rule.label_of(name) is None]
    while True:
        accepted = Counter(rule.label_of(name) for name, found in verdicts.items() if isinstance(found, Decoded))
        for label, names in waiting.items():
            missing = per_class - accepted[label]
            chosen += names[:missing]
            del names[:missing]
        if not chosen:
            break
        verdicts |= decode([entries[name] for name in chosen])
        chosen = []
    unopened = [name for name in entries if name not in verdicts]
    found_rule = rule_with(files, verdicts, unopened)
    if any(found_rule.label_of(name) != rule.label_of(name) for name in entries):
        return None
    return verdicts, unopened


def rule_with(files: ImageFiles, verdicts: Mapping[str, object], unopened: Iterable[str]) -> LabelRule:
    """Return how files get their labels; a file that was not opened is taken for an image if it is named like one."""
    images = {name for name, found in verdicts.items() if isinstance(found, Decoded)}
    images |= set(filter(_looks_like_image, unopened))
    return files.label_rule(images, {*verdicts, *unopened} - images)


def _looks_like_image(name: str) -> bool:
    return name.lower().endswith(_IMAGE_SUFFIXES)

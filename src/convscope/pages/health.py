"""The page of a data check: the files found, the classes, and images that deserve a look."""

import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convscope import __version__
from convscope.data.health import CheckedImage, Health
from convscope.pages.page import render_page
from convscope.pages.section import LeftOut, Section, titled
from convscope.pages.text import UNKNOWN, count_text, decimal_text, name_text, percent_text
from convscope.results.panels import ImageGrid, Panel, Table

EXTREMES = {"darkest": ("brightness", 1), "brightest": ("brightness", -1), "blurriest": ("sharpness", 1)}
"""Name -> what is measured, and whether the lowest (1) or the highest (-1) values come first."""
SHOWN_EXTREMES = 10
"""Images shown of each of them."""
SHOWN_GROUPS = 15
"""Groups of duplicates shown of each kind; health.json lists all of them."""
SHOWN_OF_GROUP = 4
MAX_SKIPPED_ROWS = 200
UNBALANCED = 3.0
"""A class is marked if the largest class has this many times its images."""


def draw_health(health: Health) -> bytes:
    """Return the page as a self-contained HTML file."""
    counts = f"{count_text(len(health.images))} images accepted, {count_text(len(health.skipped))} files skipped"
    return render_page(
        {name: compute(health) for name, compute in HEALTH_SECTIONS.items()},
        title=f"Health of {health.name}",
        headline=f"{count_text(health.found)} found: {counts}",
        origin=f"convscope {__version__}, convscope check",
    )


def health_to_json(health: Health) -> dict[str, Any]:
    """Return all findings as JSON values; the page shows part of them."""
    groups = [{"kind": "equal"} | _group_to_json(health, group) for group in health.equal_groups()]
    for pair, likeness in zip(health.duplicates.near, health.duplicates.correlation, strict=True):
        found = {"kind": "near"} | _group_to_json(health, pair)
        groups.append(found | {"correlation": round(float(likeness), 4)})
    stats = [each.stats for each in health.images]
    sizes = _sizes(health)
    return {
        "data": health.name,
        "found": health.found,
        "accepted": len(health.images),
        "skipped": [{"file": each.file, "reason": each.reason, "remedy": each.remedy} for each in health.skipped],
        "ignored": health.ignored,
        "problem": health.problem or None,
        "classes": {name: sum(counts.values()) for name, counts in health.class_counts().items()},
        "splits": {
            split: {name: counts[split] for name, counts in health.class_counts().items()}
            for split in sorted({each.split for each in health.images} - {""})
        },
        "sizes": sizes and dict(zip(("smallest", "median", "largest"), sizes, strict=True)),
        "formats": dict(_counted(each.format for each in stats)),
        "modes": dict(_counted(each.mode for each in stats)),
        "duplicates": groups,
        "near_duplicates_unclear": health.duplicates.unclear or None,
        "conflicts": [_group_to_json(health, group) for group in health.conflicts()],
        "leaks": [_group_to_json(health, group) for group in health.leaks()],
        **{
            name: [{"file": each.id, measure: round(value, 4)} for value, each in _extreme(health, measure, sign)]
            for name, (measure, sign) in EXTREMES.items()
        },
        "notes": list(health.notes),
    }


def _extreme(health: Health, measure: str, sign: int) -> list[tuple[float, CheckedImage]]:
    """Return the images with the lowest measure (sign -1: the highest), and the measure where it is known."""
    measured = [(getattr(each.stats, measure), each) for each in health.images]
    known = [(value, each) for value, each in measured if value is not None]
    return sorted(known, key=lambda pair: sign * pair[0])[:SHOWN_EXTREMES]


def _group_to_json(health: Health, group: Iterable[int]) -> dict[str, Any]:
    images = [health.images[i] for i in group]
    return {
        "files": [each.id for each in images],
        "classes": [each.label for each in images],
        "splits": [each.split or None for each in images],
    }


def _sizes(health: Health) -> list[str]:
    """Return the smallest, median and largest size by number of pixels, as width x height."""
    sizes = sorted(
        (each.stats.width * each.stats.height, each.stats.width, each.stats.height) for each in health.images
    )
    return [f"{sizes[at][1]}x{sizes[at][2]}" for at in (0, len(sizes) // 2, -1)] if sizes else []


# ---------------------------------------------------------------- sections


@titled("Overview", "Every file that could have been an image is either accepted or skipped.")
def _overview(health: Health) -> list[Panel]:
    stats = [each.stats for each in health.images]
    equal = health.equal_groups()
    smallest, median, largest = _sizes(health) or [UNKNOWN] * 3
    rows = [
        ("Files found", count_text(health.found)),
        ("Images accepted", count_text(len(health.images))),
        ("Files skipped because they cannot be used", count_text(len(health.skipped))),
        ("Files ignored because they are not images", count_text(health.ignored)),
        ("Classes", count_text(len(health.class_names))),
        ("Smallest image (width x height)", smallest),
        ("Median image", median),
        ("Largest image", largest),
        ("Formats", _shares(each.format for each in stats)),
        ("Colour modes of the files", _shares(each.mode for each in stats)),
        ("Images that repeat another image pixel by pixel", count_text(sum(map(len, equal)) - len(equal))),
        ("Pairs of near duplicates", health.duplicates.unclear or count_text(len(health.duplicates.near))),
        ("Images in more than one class", count_text(len(health.conflicts()))),
        ("Images in more than one split of the source", count_text(len(health.leaks()))),
    ]
    panels: list[Panel] = [Table("Summary", ("What", "Value"), tuple(rows))]
    if health.problem:
        panels.insert(0, Table("Training on this data set is not possible", ("Why",), ((health.problem,),)))
    if health.notes:
        panels.append(Table("Worth knowing", ("Note",), tuple((note,) for note in health.notes)))
    return panels


@titled(
    "Class balance",
    "A class marked few has at most a third of the images of the largest class: with class weights "
    "(--class-weights balanced) or more images, a network does not neglect it.",
)
def _classes(health: Health) -> tuple[Table, ...]:
    counts = health.class_counts()
    splits = [split for split in ("train", "validation", "test", "") if any(split in own for own in counts.values())]
    names = [split.capitalize() or "No split" for split in splits] if splits != [""] else []
    most = max((sum(own.values()) for own in counts.values()), default=0)
    rows: list[tuple[str, ...]] = []
    for name, own in counts.items():
        total = sum(own.values())
        few = "few" if total * UNBALANCED <= most else ""
        columns = [count_text(own.get(split, 0)) for split in splits] if names else []
        rows.append((name, *columns, count_text(total), percent_text(total / max(1, len(health.images))), few))
    heads: tuple[str, ...] = ("Class", *names, "All", "Fraction", "Balance")
    if not any(row[-1] for row in rows):
        heads, rows = heads[:-1], [row[:-1] for row in rows]
    return (Table("Images of each class", heads, tuple(rows)),) if rows else ()


@titled("Skipped files", "These files are neither used nor repaired: the table says for each what helps.")
def _skipped(health: Health) -> tuple[Table, ...]:
    if not health.skipped:
        return ()
    shown = health.skipped[:MAX_SKIPPED_ROWS]
    more = len(health.skipped) - len(shown)
    reasons = Counter(each.reason.partition(" (")[0] for each in health.skipped)
    title = f"{count_text(len(shown))} files" + (f" (health.json lists {more:,} more)" if more else "")
    return (
        Table("Reasons", ("Reason", "Files"), tuple((name, count_text(n)) for name, n in reasons.most_common())),
        Table(title, ("File", "Reason", "What helps"), tuple((each.file, each.reason, each.remedy) for each in shown)),
    )


@titled(
    "Duplicates",
    "Duplicates stay together in one split of the data set, so that no test image is also a training image.",
)
def _duplicates(health: Health) -> list[ImageGrid]:
    found = health.duplicates
    panels = [
        *_groups("Equal pixel by pixel", health, health.equal_groups()),
        *_groups("Near duplicates", health, list(found.near), found.correlation),
    ]
    if not panels and found.unclear:
        raise LeftOut(f"There are no equal images; {found.unclear}.")
    return panels


@titled(
    "The same image in two classes",
    "An image or its near duplicate has two labels: at least one of them is wrong, or the classes overlap.",
)
def _conflicts(health: Health) -> tuple[ImageGrid, ...]:
    return _groups("In two classes", health, health.conflicts())


@titled(
    "The same image in train and test",
    "The source has these images in more than one split: a test on them measures memorization, so a run reports "
    "the accuracy with and without them.",
)
def _leaks(health: Health) -> tuple[ImageGrid, ...]:
    return _groups("In two splits", health, health.leaks())


@titled("Darkest, brightest, blurriest", "Check whether these extreme images still show what their label says.")
def _extremes(health: Health) -> Iterator[ImageGrid]:
    for name, (measure, sign) in EXTREMES.items():
        images, captions = [], []
        for value, each in _extreme(health, measure, sign):
            text = percent_text(value) if measure == "brightness" else decimal_text(value, 3)
            captions.append(f"{measure} {text}\n{name_text(each.label)}\n{name_text(each.id)}")
            images.append(_thumbnail(each))
        if images:
            yield ImageGrid(name.capitalize(), tuple(images), tuple(captions))


HEALTH_SECTIONS: dict[str, Callable[[Health], Section]] = {
    "overview": _overview,
    "classes": _classes,
    "skipped": _skipped,
    "duplicates": _duplicates,
    "conflicts": _conflicts,
    "leaks": _leaks,
    "extremes": _extremes,
}
"""The sections of the page, in order."""


def _groups(
    title: str, health: Health, groups: Sequence[NDArray[np.int64]], likeness: NDArray[np.float32] | None = None
) -> tuple[ImageGrid, ...]:
    """Return the images of the first groups in one panel; without groups no panel."""
    if not groups:
        return ()
    images, captions = [], []
    for number, group in enumerate(groups[:SHOWN_GROUPS]):
        for i in group[:SHOWN_OF_GROUP]:
            image = health.images[i]
            similarity = "" if likeness is None else f", correlation {likeness[number]:.3f}"
            where = image.label + (f", {image.split}" if image.split else "")
            captions.append(f"group {number + 1}{similarity}\n{name_text(where)}\n{name_text(image.id)}")
            images.append(_thumbnail(image))
    more = len(groups) - SHOWN_GROUPS
    shown = f"{title} ({count_text(len(groups))})" + (f": the first {SHOWN_GROUPS}" if more > 0 else "")
    return (ImageGrid(shown, tuple(images), tuple(captions)),)


def _thumbnail(image: CheckedImage) -> NDArray[np.uint8]:
    pixels = np.asarray(Image.open(io.BytesIO(image.stats.thumbnail)))
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _counted(values: Iterable[str]) -> list[tuple[str, int]]:
    """Return how often each value occurs, the most frequent first; "" is unknown."""
    return Counter(value for value in values if value).most_common()


def _shares(values: Iterable[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in _counted(values)) or UNKNOWN

"""The page of a data check: what was found, class by class, and the pictures that are worth a look."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convscope import __version__
from convscope.data.health import CheckedPicture, Health
from convscope.report.page import Heading, render_page
from convscope.report.section import Section
from convscope.report.text import UNKNOWN, count_text, decimal_text, name_text, percent_text
from convscope.results import ImageGrid, Panel, Table

EXTREMES = 10
"""Darkest, brightest and blurriest pictures shown of each."""
SHOWN_GROUPS = 15
"""Groups of duplicates shown of each kind; health.json has all of them."""
SHOWN_OF_GROUP = 4
MAX_SKIPPED_ROWS = 200
UNBALANCED = 3.0
"""A class with so many times fewer pictures than the largest is named."""

_NONE = "There are none."


def draw_health(health: Health) -> bytes:
    """Return the page as a self-contained HTML file."""
    counts = f"{count_text(len(health.pictures))} pictures accepted, {count_text(len(health.skipped))} files skipped"
    heading = Heading(
        title=f"Health of {health.name}",
        headline=f"{count_text(health.found)} found: {counts}",
        origin=f"convscope {__version__}, convscope data check",
    )
    return render_page(heading, {name: compute(health) for name, compute in HEALTH_SECTIONS.items()})


def health_to_json(health: Health) -> dict[str, Any]:
    """Return everything that was found as JSON values; the page shows part of it."""
    groups = [_group_to_json(health, "equal", group) for group in health.equal_groups()]
    for pair, likeness in zip(health.duplicates.near, health.duplicates.likeness, strict=True):
        groups.append(_group_to_json(health, "near", pair) | {"likeness": round(float(likeness), 4)})
    looks = [each.looks for each in health.pictures]
    return {
        "data": health.name,
        "found": health.found,
        "accepted": len(health.pictures),
        "skipped": [{"file": each.file, "reason": each.reason, "remedy": each.remedy} for each in health.skipped],
        "ignored": health.ignored,
        "problem": health.problem or None,
        "classes": {name: sum(counts.values()) for name, counts in health.class_counts().items()},
        "parts": {
            part: {name: counts[part] for name, counts in health.class_counts().items()}
            for part in sorted({each.part for each in health.pictures} - {""})
        },
        "sizes": _sizes(health) and dict(zip(("smallest", "median", "largest"), _sizes(health), strict=True)),
        "formats": dict(Counter(each.format for each in looks if each.format).most_common()),
        "modes": dict(Counter(each.mode for each in looks if each.mode).most_common()),
        "duplicates": groups,
        "near_duplicates_unclear": health.duplicates.unclear or None,
        "conflicts": [_group_to_json(health, None, group) for group in health.conflicts()],
        "leaks": [_group_to_json(health, None, group) for group in health.leaks()],
        "darkest": _ranked_to_json(darkest(health), "brightness"),
        "brightest": _ranked_to_json(brightest(health), "brightness"),
        "blurriest": _ranked_to_json(blurriest(health), "sharpness"),
        "notes": list(health.notes),
    }


def darkest(health: Health) -> list[CheckedPicture]:
    """Return the pictures of least mean brightness, the darkest first."""
    return sorted(health.pictures, key=lambda each: each.looks.brightness)[:EXTREMES]


def brightest(health: Health) -> list[CheckedPicture]:
    """Return the pictures of greatest mean brightness, the brightest first."""
    return sorted(health.pictures, key=lambda each: -each.looks.brightness)[:EXTREMES]


def blurriest(health: Health) -> list[CheckedPicture]:
    """Return the pictures with the least fine detail, the blurriest first; blank ones have no sharpness."""
    known = [each for each in health.pictures if each.looks.sharpness is not None]
    return sorted(known, key=lambda each: each.looks.sharpness or 0.0)[:EXTREMES]


def _group_to_json(health: Health, kind: str | None, group: Iterable[int]) -> dict[str, Any]:
    pictures = [health.pictures[i] for i in group]
    tree: dict[str, Any] = {} if kind is None else {"kind": kind}
    return tree | {
        "files": [each.id for each in pictures],
        "classes": [each.label for each in pictures],
        "parts": [each.part or None for each in pictures],
    }


def _ranked_to_json(pictures: Sequence[CheckedPicture], name: str) -> list[dict[str, Any]]:
    return [{"file": each.id, name: round(getattr(each.looks, name), 4)} for each in pictures]


def _sizes(health: Health) -> list[str]:
    """Return the smallest, median and largest size by number of pixels, as width x height."""
    sizes = sorted(
        (each.looks.width * each.looks.height, each.looks.width, each.looks.height) for each in health.pictures
    )
    return [f"{sizes[at][1]}x{sizes[at][2]}" for at in (0, len(sizes) // 2, -1)] if sizes else []


# ---------------------------------------------------------------- sections


def _overview(health: Health) -> Section:
    looks = [each.looks for each in health.pictures]
    smallest, median, largest = _sizes(health) or [UNKNOWN] * 3
    rows = [
        ("Files found", count_text(health.found)),
        ("Pictures accepted", count_text(len(health.pictures))),
        ("Files skipped because they could not be used", count_text(len(health.skipped))),
        ("Files ignored because they are never pictures", count_text(health.ignored)),
        ("Classes", count_text(len(health.class_names))),
        ("Smallest picture (width x height)", smallest),
        ("Median picture", median),
        ("Largest picture", largest),
        ("Formats", _shares(each.format for each in looks)),
        ("Colour modes of the files", _shares(each.mode for each in looks)),
        ("Pictures that repeat another one pixel by pixel", count_text(_extra(health.equal_groups()))),
        ("Pairs that look the same without being equal", _near_text(health)),
        ("Pictures in more than one class", count_text(len(health.conflicts()))),
        ("Pictures in more than one part of the source", count_text(len(health.leaks()))),
    ]
    panels: list[Panel] = [Table("In short", ("What", "Value"), tuple(rows))]
    if health.problem:
        panels.insert(0, Table("It cannot be trained on as it is", ("Why",), ((health.problem,),)))
    if health.notes:
        panels.append(Table("Worth knowing", ("Note",), tuple((note,) for note in health.notes)))
    intro = "Found is accepted plus skipped: every file that could have been a picture is in one of the two."
    return Section("Overview", intro, tuple(panels))


def _classes(health: Health) -> Section:
    counts = health.class_counts()
    parts = [part for part in ("train", "validation", "test", "") if any(part in own for own in counts.values())]
    names = [part.capitalize() or "No part" for part in parts] if parts != [""] else []
    most = max((sum(own.values()) for own in counts.values()), default=0)
    rows: list[tuple[str, ...]] = []
    for name, own in counts.items():
        total = sum(own.values())
        few = "few" if total * UNBALANCED <= most else ""
        columns = [count_text(own.get(part, 0)) for part in parts] if names else []
        rows.append((name, *columns, count_text(total), percent_text(total / max(1, len(health.pictures))), few))
    heads: tuple[str, ...] = ("Class", *names, "All", "Share", "Balance")
    if not any(row[-1] for row in rows):
        heads, rows = heads[:-1], [row[:-1] for row in rows]
    table = Table("Pictures of each class", heads, tuple(rows))
    intro = (
        "A class marked few has at most a third of the pictures of the largest one: class weights (--class-weights "
        "balanced) or more pictures keep a network from passing it over."
    )
    return Section("Class balance", intro, (table,)) if rows else Section("Class balance", intro, missing=_NONE)


def _skipped(health: Health) -> Section:
    intro = "None of these is replaced or repaired: what helps stands beside each."
    shown = health.skipped[:MAX_SKIPPED_ROWS]
    more = len(health.skipped) - len(shown)
    reasons = Counter(each.reason.partition(" (")[0] for each in health.skipped)
    title = f"{count_text(len(shown))} files" + (f" (health.json lists {more:,} more)" if more else "")
    panels = (
        Table("Reasons", ("Reason", "Files"), tuple((name, count_text(n)) for name, n in reasons.most_common())),
        Table(title, ("File", "Reason", "What helps"), tuple((each.file, each.reason, each.remedy) for each in shown)),
    )
    return Section("Skipped files", intro, panels) if shown else Section("Skipped files", intro, missing=_NONE)


def _duplicate_section(health: Health) -> Section:
    panels: list[Panel] = []
    equal = health.equal_groups()
    if equal:
        panels.append(_groups("Equal pixel by pixel", health, equal))
    if len(health.duplicates.near):
        panels.append(_groups("Nearly the same", health, list(health.duplicates.near), health.duplicates.likeness))
    intro = (
        "Pictures that are there more than once stay together when the data set is split, so that none is tested "
        "that was learned from."
    )
    unclear = health.duplicates.unclear
    missing = f"There are no equal pictures; {unclear}." if unclear else _NONE
    return Section("Duplicates", intro, tuple(panels), missing="" if panels else missing)


def _conflicts(health: Health) -> Section:
    groups = health.conflicts()
    intro = "One picture, or nearly one, with two labels: at least one of them is wrong, or the classes overlap."
    panels = (_groups("In two classes", health, groups),) if groups else ()
    return Section("The same picture in two classes", intro, panels, missing="" if groups else _NONE)


def _leaks(health: Health) -> Section:
    groups = health.leaks()
    intro = (
        "The source itself puts these pictures into more than one part: a test on them measures memory, so accuracy is "
        "given with and without them."
    )
    panels = (_groups("In two parts", health, groups),) if groups else ()
    return Section("The same picture in train and test", intro, panels, missing="" if groups else _NONE)


def _extremes(health: Health) -> Section:
    intro = "The ends of the scale: look whether these pictures still show what their label says."
    if not health.pictures:
        return Section("Darkest, brightest, blurriest", intro, missing=_NONE)
    panels = (
        _ranked("Darkest", darkest(health), lambda each: f"brightness {percent_text(each.looks.brightness)}"),
        _ranked("Brightest", brightest(health), lambda each: f"brightness {percent_text(each.looks.brightness)}"),
        _ranked("Blurriest", blurriest(health), lambda each: f"sharpness {decimal_text(each.looks.sharpness, 3)}"),
    )
    return Section("Darkest, brightest, blurriest", intro, tuple(panel for panel in panels if panel.images))


HEALTH_SECTIONS: dict[str, Callable[[Health], Section]] = {
    "overview": _overview,
    "classes": _classes,
    "skipped": _skipped,
    "duplicates": _duplicate_section,
    "conflicts": _conflicts,
    "leaks": _leaks,
    "extremes": _extremes,
}
"""The sections of the page, in order."""


def _groups(
    title: str, health: Health, groups: Sequence[NDArray[np.int64]], likeness: NDArray[np.float32] | None = None
) -> ImageGrid:
    images, captions = [], []
    for number, group in enumerate(groups[:SHOWN_GROUPS]):
        for i in group[:SHOWN_OF_GROUP]:
            picture = health.pictures[i]
            alike = "" if likeness is None else f", likeness {likeness[number]:.3f}"
            where = picture.label + (f", {picture.part}" if picture.part else "")
            captions.append(f"group {number + 1}{alike}\n{name_text(where)}\n{name_text(picture.id)}")
            images.append(_thumbnail(picture))
    more = len(groups) - SHOWN_GROUPS
    shown = f"{title} ({count_text(len(groups))})" + (f": the first {SHOWN_GROUPS}" if more > 0 else "")
    return ImageGrid(shown, tuple(images), tuple(captions))


def _ranked(title: str, pictures: Sequence[CheckedPicture], figure: Callable[[CheckedPicture], str]) -> ImageGrid:
    captions = tuple(f"{figure(each)}\n{name_text(each.label)}\n{name_text(each.id)}" for each in pictures)
    return ImageGrid(title, tuple(map(_thumbnail, pictures)), captions)


def _thumbnail(picture: CheckedPicture) -> NDArray[np.uint8]:
    pixels = np.asarray(Image.open(io.BytesIO(picture.looks.thumbnail)))
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _extra(groups: Sequence[NDArray[np.int64]]) -> int:
    return sum(map(len, groups)) - len(groups)


def _near_text(health: Health) -> str:
    return health.duplicates.unclear or count_text(len(health.duplicates.near))


def _shares(values: Iterable[str]) -> str:
    counted = Counter(value for value in values if value)
    return ", ".join(f"{name} {count:,}" for name, count in counted.most_common()) or UNKNOWN

"""What the run was given: samples, shapes, mean and deviation, class counts, and what was left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from convscope.report.section import RecordedRun, Section
from convscope.report.text import UNKNOWN, count_text, decimal_text, name_text
from convscope.results import ImageGrid, Panel, Table

MAX_SKIPPED_ROWS = 50
"""Skipped files shown; skipped.csv has all of them."""
PARTS = ("train", "validation", "test")


def data_section(run: RecordedRun) -> Section:
    """Return what the pictures look like and how many there are."""
    data = run.facts["data"]
    panels: list[Panel] = [
        _samples(run, data["samples"]),
        *(_with_short_names(panel) for panel in run.augmentation or ()),
        _shapes(run.facts),
        _channels(data["mean"], data["std"]),
        _class_counts(run.facts["class_names"], data["class_counts"]),
    ]
    if run.skipped:
        panels.append(_skipped(run))
    if data["notes"]:
        panels.append(Table("Worth knowing", ("Note",), tuple((note,) for note in data["notes"])))
    return Section(
        title="Data",
        intro="Check that the labels under the pictures are right and that no class has far fewer pictures than "
        "the others: a network learns what it is shown, mistakes included.",
        panels=tuple(panels),
    )


def _samples(run: RecordedRun, ids: Sequence[str]) -> ImageGrid:
    return ImageGrid(
        title=f"{len(ids)} pictures of the training part",
        images=tuple(run.picture(picture_id) for picture_id in ids),
        captions=tuple(name_text(run.labels.get(picture_id, UNKNOWN)) for picture_id in ids),
    )


def _with_short_names(panel: Panel) -> Panel:
    if not isinstance(panel, ImageGrid):
        return panel
    captions = ("\n".join(map(name_text, caption.split("\n"))) for caption in panel.captions)
    return ImageGrid(panel.title, panel.images, tuple(captions))


def _shapes(facts: Mapping[str, Any]) -> Table:
    data, shape = facts["data"], facts["model"]["input_shape"]
    batch = facts["config"]["train"]["batch_size"]
    return Table(
        "Shapes and counts",
        ("What", "Value"),
        (
            ("Data set", data["name"]),
            ("Pictures used", count_text(data["num_images"])),
            ("Files skipped because they could not be used", count_text(data["num_skipped"])),
            ("Files ignored because they are never pictures", count_text(data["num_ignored"])),
            ("Classes", count_text(len(facts["class_names"]))),
            ("One picture (channels × height × width)", " × ".join(map(str, shape))),
            ("One batch (pictures × channels × height × width)", " × ".join(map(str, [batch, *shape]))),
        ),
    )


def _channels(mean: Sequence[float], std: Sequence[float]) -> Table:
    names = ("gray",) if len(mean) == 1 else ("red", "green", "blue")
    return Table(
        "Brightness of the training part, from 0 (black) to 1 (white)",
        ("Channel", "Mean", "Standard deviation"),
        tuple((name, decimal_text(m), decimal_text(s)) for name, m, s in zip(names, mean, std, strict=True)),
    )


def _class_counts(names: Sequence[str], counts: Mapping[str, Sequence[int]]) -> Table:
    columns = [counts[part] for part in PARTS]
    rows = [(name, *own, sum(own)) for name, *own in zip(names, *columns, strict=True)]
    total = ("All classes", *map(sum, columns), sum(map(sum, columns)))
    return Table(
        "Pictures of each class",
        ("Class", "Train", "Validation", "Test", "All"),
        tuple((name, *map(count_text, numbers)) for name, *numbers in [*rows, total]),
    )


def _skipped(run: RecordedRun) -> Table:
    shown = run.skipped[:MAX_SKIPPED_ROWS]
    more = len(run.skipped) - len(shown)
    title = "Skipped files" + (f" (the first {len(shown)}; skipped.csv lists {more:,} more)" if more else "")
    return Table(
        title, ("File", "Reason", "What helps"), tuple((row["file"], row["reason"], row["remedy"]) for row in shown)
    )

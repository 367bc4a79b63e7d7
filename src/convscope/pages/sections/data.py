"""The data of the run: samples, shapes, mean and standard deviation, class counts, and skipped files."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from convscope.pages.section import RecordedRun, titled
from convscope.pages.text import UNKNOWN, count_text, decimal_text, name_text
from convscope.results.panels import ImageGrid, Panel, Table

MAX_SKIPPED_ROWS = 50
"""Skipped files shown; skipped.csv has all of them."""
SPLITS = ("train", "validation", "test")


@titled(
    "Data",
    "Check that the labels under the images are correct and that no class has far fewer images than the others: a "
    "network learns whatever it is shown, mistakes included.",
)
def section(run: RecordedRun) -> list[Panel]:
    data = run.facts["data"]
    samples, labels = data["samples"], [name_text(run.labels.get(id_, UNKNOWN)) for id_ in data["samples"]]
    panels: list[Panel] = [
        ImageGrid(f"{len(samples)} images of the training split", tuple(map(run.image, samples)), tuple(labels)),
        *(_with_short_names(panel) for panel in run.augmentation or ()),
        _shapes(run.facts),
        _channels(data["mean"], data["std"]),
        _class_counts(run.facts["class_names"], data["class_counts"]),
    ]
    if run.skipped:
        panels.append(_skipped(run))
    if data["notes"]:
        panels.append(Table("Worth knowing", ("Note",), tuple((note,) for note in data["notes"])))
    return panels


def _with_short_names(panel: Panel) -> Panel:
    if not isinstance(panel, ImageGrid):
        return panel
    captions = ("\n".join(map(name_text, caption.split("\n"))) for caption in panel.captions)
    return replace(panel, captions=tuple(captions))


def _shapes(facts: Mapping[str, Any]) -> Table:
    data, shape = facts["data"], facts["model"]["input_shape"]
    batch = facts["config"]["train"]["batch_size"]
    return Table(
        "Shapes and counts",
        ("What", "Value"),
        (
            ("Data set", data["name"]),
            ("Images used", count_text(data["num_images"])),
            ("Files skipped because they could not be used", count_text(data["num_skipped"])),
            ("Files ignored because they are never images", count_text(data["num_ignored"])),
            ("Classes", count_text(len(facts["class_names"]))),
            ("One image (channels × height × width)", " × ".join(map(str, shape))),
            ("One batch (images × channels × height × width)", " × ".join(map(str, [batch, *shape]))),
        ),
    )


def _channels(mean: Sequence[float], std: Sequence[float]) -> Table:
    names = ("gray",) if len(mean) == 1 else ("red", "green", "blue")
    return Table(
        "Brightness of the training split, from 0 (black) to 1 (white)",
        ("Channel", "Mean", "Standard deviation"),
        tuple((name, decimal_text(m), decimal_text(s)) for name, m, s in zip(names, mean, std, strict=True)),
    )


def _class_counts(names: Sequence[str], counts: Mapping[str, Sequence[int]]) -> Table:
    columns = [counts[split] for split in SPLITS]
    rows = [(name, *own, sum(own)) for name, *own in zip(names, *columns, strict=True)]
    total = ("All classes", *map(sum, columns), sum(map(sum, columns)))
    return Table(
        "Images of each class",
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

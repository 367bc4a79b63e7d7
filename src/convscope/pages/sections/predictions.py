"""Test images with their predictions: the first ones, and the worst mistakes."""

from collections.abc import Sequence

from convscope.pages.section import LeftOut, RecordedRun, Row, evaluated, titled
from convscope.pages.text import decimal_text, name_text, percent_text
from convscope.results.panels import ImageGrid

MAX_IMAGES = 20
"""Images of each section."""


@titled(
    "First test predictions",
    "These are the first images of the test split, not selected in any way: each caption gives the predicted class, "
    "the actual class and the probability of the prediction.",
)
def first(run: RecordedRun) -> tuple[ImageGrid, ...]:
    rows = evaluated(run.predictions)[:MAX_IMAGES]
    wrong = tuple(row["predicted"] != row["true"] for row in rows)
    return (_image_grid(run, f"{len(rows)} images, {sum(wrong)} of them wrong", rows, wrong=wrong),)


@titled(
    "Worst mistakes",
    "The images whose actual class got the lowest probability come first: decide for each whether you would have "
    "recognized it, or whether its label is wrong.",
)
def mistakes(run: RecordedRun) -> tuple[ImageGrid, ...]:
    found = evaluated(run.mistakes)
    if not found:
        raise LeftOut("There is nothing to show: the network made no mistake on the test split.")
    rows = found[:MAX_IMAGES]
    title = f"{len(rows)} of {len(found):,} mistakes: prediction / actual / loss / probability"
    return (_image_grid(run, title, rows, notes=[f"loss {decimal_text(float(row['loss']), 2)}\n" for row in rows]),)


def _image_grid(
    run: RecordedRun, title: str, rows: Sequence[Row], *, wrong: tuple[bool, ...] = (), notes: Sequence[str] = ()
) -> ImageGrid:
    captions = (
        f"predicted {name_text(row['predicted'])}\nactual {name_text(row['true'])}\n{note}"
        f"probability {percent_text(float(row['p_pred']))}"
        for row, note in zip(rows, notes or [""] * len(rows), strict=True)
    )
    return ImageGrid(title, tuple(run.image(row["image"]) for row in rows), tuple(captions), wrong)

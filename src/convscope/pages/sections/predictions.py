"""Images with their predictions: the first ones of a shuffle, the first mistakes and the worst."""

from collections.abc import Sequence

from convscope.pages.section import LeftOut, RecordedRun, Row, evaluated, titled
from convscope.pages.text import decimal_text, name_text, percent_text
from convscope.results.panels import ImageGrid

MAX_IMAGES = 20
"""Images of each section."""


@titled(
    "First predictions",
    lambda run: (
        f"These are the first images of the {run.split} split after a shuffle by the seed of the run, not "
        "selected in any way: each caption gives the predicted class, the actual class and the probability of the "
        "prediction."
    ),
)
def first(run: RecordedRun) -> tuple[ImageGrid, ...]:
    rows = run.shown_predictions()[:MAX_IMAGES]
    wrong = tuple(map(_is_wrong, rows))
    return (_image_grid(run, f"{len(rows)} images, {sum(wrong)} of them wrong", rows, wrong=wrong),)


@titled(
    "Mistakes",
    "First the mistakes in the order of the shuffle, then those whose actual class got the lowest probability: decide "
    "for each whether you would have recognized it, or whether its label is wrong.",
)
def mistakes(run: RecordedRun) -> tuple[ImageGrid, ...]:
    worst = evaluated(run.mistakes)
    if not worst:
        raise LeftOut(f"There is nothing to show: the network made no mistake on the {run.split} split.")
    in_order = [row for row in run.shown_predictions() if _is_wrong(row)]
    number = min(MAX_IMAGES, len(worst))
    of_all = f"of {len(worst):,} on the {run.split} split: prediction / actual / loss / probability"
    return (
        _image_grid(run, f"The first {number} mistakes {of_all}", in_order[:number], notes=_losses(in_order[:number])),
        _image_grid(run, f"The worst {number} mistakes {of_all}", worst[:number], notes=_losses(worst[:number])),
    )


def _is_wrong(row: Row) -> bool:
    return row["predicted"] != row["true"]


def _losses(rows: Sequence[Row]) -> list[str]:
    return [f"loss {decimal_text(float(row['loss']), 2)}\n" for row in rows]


def _image_grid(
    run: RecordedRun, title: str, rows: Sequence[Row], *, wrong: tuple[bool, ...] = (), notes: Sequence[str] = ()
) -> ImageGrid:
    captions = (
        f"predicted {name_text(row['predicted'])}\nactual {name_text(row['true'])}\n{note}"
        f"probability {percent_text(float(row['p_pred']))}"
        for row, note in zip(rows, notes or [""] * len(rows), strict=True)
    )
    return ImageGrid(title, tuple(run.image(row["image"]) for row in rows), tuple(captions), wrong)

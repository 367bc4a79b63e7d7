"""The worst mistakes on the test part."""

from __future__ import annotations

from convscope.report.section import NOT_EVALUATED, RecordedRun, Row, Section
from convscope.report.text import decimal_text, name_text, percent_text
from convscope.results import ImageGrid

MAX_PICTURES = 20


def mistakes_section(run: RecordedRun) -> Section:
    """Return the wrong predictions with the largest loss, worst first."""
    title = "Worst mistakes"
    intro = (
        "First come the pictures whose actual class the network found least probable: decide for each whether you "
        "would have known better, or whether its label is wrong."
    )
    if run.mistakes is None:
        return Section(title, intro, missing=NOT_EVALUATED)
    if not run.mistakes:
        return Section(title, intro, missing="There is nothing to show: the network made no mistake on the test part.")
    rows = run.mistakes[:MAX_PICTURES]
    grid = ImageGrid(
        title=f"{len(rows)} of {len(run.mistakes):,} mistakes: prediction / actual / loss / probability",
        images=tuple(run.picture(row["picture"]) for row in rows),
        captions=tuple(map(_caption, rows)),
    )
    return Section(title, intro, (grid,))


def _caption(row: Row) -> str:
    loss, probability = decimal_text(float(row["loss"]), 2), percent_text(float(row["p_pred"]))
    predicted, actual = name_text(row["predicted"]), name_text(row["true"])
    return f"predicted {predicted}\nactual {actual}\nloss {loss}\nprobability {probability}"

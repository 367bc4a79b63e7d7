"""The first test pictures with what the network said about them."""

from __future__ import annotations

from convscope.report.section import NOT_EVALUATED, RecordedRun, Row, Section
from convscope.report.text import name_text, percent_text
from convscope.results import ImageGrid

MAX_PICTURES = 20


def predictions_section(run: RecordedRun) -> Section:
    """Return the first test pictures in data order, the wrong ones marked."""
    title = "First test predictions"
    intro = (
        "The first pictures of the test part, not chosen in any way: under each stand the predicted class, the actual "
        "class and how probable the network found its prediction."
    )
    if run.predictions is None:
        return Section(title, intro, missing=NOT_EVALUATED)
    rows = run.predictions[:MAX_PICTURES]
    wrong = tuple(row["predicted"] != row["true"] for row in rows)
    grid = ImageGrid(
        title=f"{len(rows)} pictures, {sum(wrong)} of them wrong",
        images=tuple(run.picture(row["picture"]) for row in rows),
        captions=tuple(map(_caption, rows)),
        wrong=wrong,
    )
    return Section(title, intro, (grid,))


def _caption(row: Row) -> str:
    predicted, actual = name_text(row["predicted"]), name_text(row["true"])
    return f"predicted {predicted}\nactual {actual}\nprobability {percent_text(float(row['p_pred']))}"

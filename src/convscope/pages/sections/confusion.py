"""The confusion matrix."""

import numpy as np

from convscope.evaluation.metrics import most_confused_cells
from convscope.pages.section import RecordedRun, evaluated, titled
from convscope.pages.text import count_text, percent_text
from convscope.results.panels import Matrix, Panel, Table

MAX_PAIRS = 10
"""Pairs of classes in the list of confusions."""


@titled(
    "Confusion matrix",
    "Each row is an actual class and each column a predicted one: correct predictions are on the diagonal, and each "
    "coloured cell beside it is a pair of classes that the network confuses.",
)
def section(run: RecordedRun) -> tuple[Panel, ...]:
    names = tuple(run.facts["class_names"])
    counts = np.array(evaluated(evaluated(run.results)["confusion"]), dtype=np.int64)
    matrix = Matrix(f"Actual against predicted class, {run.split} split", "actual", "predicted", names, names, counts)
    rows = tuple(
        (names[i], names[j], count_text(int(counts[i, j])), *_of_class(int(counts[i, j]), int(counts[i].sum())))
        for i, j in most_confused_cells(counts, MAX_PAIRS)
    )
    columns = ("Actual", "Predicted", "Images", "Of the actual class", "Fraction")
    return (matrix, Table("Most frequent confusions", columns, rows)) if rows else (matrix,)


def _of_class(confused: int, n: int) -> tuple[str, str]:
    return count_text(n), percent_text(confused / n)

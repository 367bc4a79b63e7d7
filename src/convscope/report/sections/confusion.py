"""Which classes are taken for which others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from convscope.evaluation.mistakes import most_confused_cells
from convscope.report.section import NOT_EVALUATED, RecordedRun, Section
from convscope.report.text import count_text, percent_text
from convscope.results import Matrix, Panel, Table

MAX_PAIRS = 10
"""Pairs of classes in the list of confusions."""


def confusion_section(run: RecordedRun) -> Section:
    """Return the confusion matrix and the pairs that are confused most."""
    title = "Confusion matrix"
    intro = (
        "Every row is an actual class and every column a predicted one: right answers lie on the diagonal, and each "
        "coloured cell beside it is a pair of classes that the network confuses."
    )
    if run.results is None or run.results["confusion"] is None:
        return Section(title, intro, missing=NOT_EVALUATED)
    names = tuple(run.facts["class_names"])
    counts = np.array(run.results["confusion"], dtype=np.int64)
    matrix = Matrix("Actual against predicted class", "actual", "predicted", names, names, counts)
    panels: list[Panel] = [matrix]
    pairs = _most_confused(names, counts)
    if pairs.rows:
        panels.append(pairs)
    return Section(title, intro, tuple(panels))


def _most_confused(names: Sequence[str], counts: NDArray[np.int64]) -> Table:
    """Return the largest cells off the diagonal; equal ones in class order."""
    pairs = most_confused_cells(counts, MAX_PAIRS)
    return Table(
        "Most frequent confusions",
        ("Actual", "Predicted", "Pictures", "Share of actual"),
        tuple(
            (names[i], names[j], count_text(int(counts[i, j])), percent_text(int(counts[i, j]) / int(counts[i].sum())))
            for i, j in pairs
        ),
    )

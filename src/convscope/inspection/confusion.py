"""Which classes are taken for which others, with the pictures."""

from __future__ import annotations

import numpy as np

from convscope.errors import UsageError
from convscope.evaluation.metrics import compute_metrics
from convscope.evaluation.mistakes import most_confused_cells
from convscope.inspection.subject import Subject, evidence_of
from convscope.results import ImageGrid, Matrix, Panel, Table

SHOWN_CELLS, SHOWN_PICTURES, SHOWN_PAIRS = 6, 10, 10


def inspect_confusion(subject: Subject) -> tuple[Panel, ...]:
    """Return the confusion matrix and the pictures behind its largest cells, those with the largest loss first."""
    evidence = evidence_of(subject)
    predictions, images = evidence.predictions, evidence.images
    counts, names = compute_metrics(predictions).confusion, predictions.class_names
    panels: list[Panel] = [Matrix("Actual against predicted class", "actual", "predicted", names, names, counts)]
    for actual, said in most_confused_cells(counts, SHOWN_CELLS):
        inside = np.flatnonzero((predictions.labels == actual) & (predictions.predicted == said))
        worst = inside[np.argsort(-predictions.losses[inside], kind="stable")][:SHOWN_PICTURES]
        panels.append(
            ImageGrid(
                f"{names[actual]} taken for {names[said]}: {len(worst)} of {len(inside):,}",
                tuple(images.images[evidence.indices[i]] for i in worst),
                tuple(
                    f"predicted {names[said]}\nactual {names[actual]}\n"
                    f"probability {100 * predictions.probabilities[i, said]:.1f}\N{NO-BREAK SPACE}%"
                    for i in worst
                ),
            )
        )
    return tuple(panels)


def inspect_confused_pairs(subject: Subject) -> tuple[Panel, ...]:
    """Return the pairs of classes that are taken for each other most, both directions together."""
    predictions = evidence_of(subject).predictions
    counts, names = compute_metrics(predictions).confusion, predictions.class_names
    pairs = most_confused_cells(np.triu(counts + counts.T, 1), SHOWN_PAIRS)
    if not pairs:
        raise UsageError("no picture was taken for one of another class")
    rows = []
    for a, b in pairs:
        both, members = int(counts[a, b] + counts[b, a]), int(counts[a].sum() + counts[b].sum())
        share = f"{100 * both / members:.1f}\N{NO-BREAK SPACE}%"
        rows.append((names[a], names[b], f"{counts[a, b]:,}", f"{counts[b, a]:,}", share))
    columns = ("One class", "Other class", "One taken for other", "Other taken for one", "Share of both")
    return (Table("Pairs that are confused most", columns, tuple(rows)),)

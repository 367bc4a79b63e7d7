"""Confused classes, with their images."""

import numpy as np

from convscope.errors import UsageError
from convscope.evaluation.metrics import compute_metrics, most_confused_cells
from convscope.inspection.subject import Subject, evidence_of
from convscope.results.panels import ImageGrid, Matrix, Panel, Table

SHOWN_CELLS, SHOWN_IMAGES, SHOWN_PAIRS = 6, 10, 10


def inspect_confusion(subject: Subject) -> tuple[Panel, ...]:
    """Return the confusion matrix and the images of its largest cells off the diagonal, largest loss first."""
    evidence = evidence_of(subject)
    predictions, images = evidence.predictions, evidence.images
    counts, names = compute_metrics(predictions).confusion, predictions.class_names
    panels: list[Panel] = [
        Matrix(f"Actual against predicted class, {evidence.split} split", "actual", "predicted", names, names, counts)
    ]
    for actual, predicted in most_confused_cells(counts, SHOWN_CELLS):
        inside = np.flatnonzero((predictions.labels == actual) & (predictions.predicted == predicted))
        worst = inside[np.argsort(-predictions.losses[inside], kind="stable")][:SHOWN_IMAGES]
        panels.append(
            ImageGrid(
                f"{names[actual]} predicted as {names[predicted]}: {len(worst)} of {len(inside):,}",
                tuple(images.images[evidence.indices[i]] for i in worst),
                tuple(
                    f"predicted {names[predicted]}\nactual {names[actual]}\n"
                    f"probability {100 * predictions.probabilities[i, predicted]:.1f}\N{NO-BREAK SPACE}%"
                    for i in worst
                ),
            )
        )
    return tuple(panels)


def inspect_confused_pairs(subject: Subject) -> tuple[Panel, ...]:
    """Return the most confused pairs of classes, both directions together."""
    evidence = evidence_of(subject)
    predictions = evidence.predictions
    counts, names = compute_metrics(predictions).confusion, predictions.class_names
    pairs = most_confused_cells(np.triu(counts + counts.T, 1), SHOWN_PAIRS)
    if not pairs:
        raise UsageError("every image is classified correctly")
    rows = []
    for a, b in pairs:
        both, members = int(counts[a, b] + counts[b, a]), int(counts[a].sum() + counts[b].sum())
        fraction = f"{100 * both / members:.1f}\N{NO-BREAK SPACE}%"
        rows.append((names[a], names[b], f"{counts[a, b]:,}", f"{counts[b, a]:,}", f"{members:,}", fraction))
    columns = ("Class A", "Class B", "A predicted as B", "B predicted as A", "Images of both", "Fraction")
    return (Table(f"Most confused pairs, {evidence.split} split", columns, tuple(rows)),)

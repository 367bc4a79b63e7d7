"""Which mistakes a network makes, and which of them may be the label's; numpy only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from convscope.results import Predictions


def most_confused_cells(confusion: NDArray[np.int64], most: int) -> list[tuple[int, int]]:
    """Return the largest cells (actual, predicted) off the diagonal that are not zero; equal ones in class order."""
    mistakes = confusion.copy()
    np.fill_diagonal(mistakes, 0)
    order = np.argsort(-mistakes, axis=None, kind="stable")[:most]
    columns = confusion.shape[1]
    return [divmod(int(cell), columns) for cell in order if mistakes.flat[cell]]


def suspected_label_errors(predictions: Predictions) -> list[tuple[int, int]]:
    """Return (picture number, likelier class) where the label looks wrong, worst first.

    A class is likely for a picture when its probability reaches the mean that it has over the pictures of that label.
    A label is suspected where the most probable of the likely classes is another one; worst is where the label's
    probability lies farthest below. The network must not have learned from these pictures.

    Source: C. Northcutt, L. Jiang and I. Chuang, Confident Learning, JAIR 70 (2021), equations 1 and 2, ranked by
    normalized margin.
    """
    p, labels = predictions.probabilities.astype(np.float64), predictions.labels
    n, num_classes = p.shape
    members = np.bincount(labels, minlength=num_classes)
    own = p[np.arange(n), labels]
    threshold = np.where(members > 0, np.bincount(labels, own, num_classes) / np.maximum(members, 1), np.inf)
    likely = np.where(p >= threshold, p, -1.0)
    suggested = likely.argmax(axis=1)
    margin = own - likely.max(axis=1)
    suspected = np.flatnonzero((suggested != labels) & (likely.max(axis=1) >= 0))
    return [(int(i), int(suggested[i])) for i in suspected[np.argsort(margin[suspected], kind="stable")]]

"""How much of the accuracy comes from pictures that are there more than once."""

from __future__ import annotations

import numpy as np

from convscope.inspection.subject import Subject, evidence_of
from convscope.results import Panel, Table, accuracy_of


def inspect_duplicates(subject: Subject) -> tuple[Panel, ...]:
    """Return the accuracy on all pictures, on distinct ones, and on those that the training part does not have.

    Duplicates and near duplicates are those by which the data set was split, at the size that the network takes.
    """
    evidence = evidence_of(subject)
    own = evidence.splits.groups[evidence.indices]
    right = evidence.predictions.predicted == evidence.predictions.labels
    everything = np.ones(len(own), dtype=bool)
    first = np.zeros(len(own), dtype=bool)
    first[np.unique(own, return_index=True)[1]] = True
    unseen = ~np.isin(evidence.indices, evidence.splits.leaked(evidence.part))
    rows = []
    for name, kept in (
        ("All pictures", everything),
        ("Each distinct picture once", first),
        ("Without those that training or validation has too", unseen),
        ("Distinct, and in neither of the two", first & unseen),
    ):
        figures = ("0", "–", "–")
        if kept.any():
            accuracy = accuracy_of(correct=int(right[kept].sum()), n=int(kept.sum()))
            low, high = (f"{100 * value:.2f}" for value in (accuracy.low, accuracy.high))
            figures = (
                f"{accuracy.n:,}",
                f"{100 * accuracy.value:.2f}\N{NO-BREAK SPACE}%",
                f"{low} to {high}\N{NO-BREAK SPACE}%",
            )
        rows.append((name, *figures))
    columns = (f"Of the {evidence.part} part", "Pictures", "Accuracy", "95\N{NO-BREAK SPACE}% interval")
    return (Table("Accuracy with and without duplicates", columns, tuple(rows)),)

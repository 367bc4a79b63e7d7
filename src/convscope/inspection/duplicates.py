"""The accuracy with and without duplicate images."""

import numpy as np

from convscope.inspection.subject import Subject, evidence_of
from convscope.results.panels import Panel, Table
from convscope.results.run import accuracy_of


def inspect_duplicates(subject: Subject) -> tuple[Panel, ...]:
    """Return the accuracy on all images, on distinct images, and on images unlike any training or validation image.

    Duplicates and near duplicates are the groups that kept the splits apart, found at the input size of the network.
    """
    evidence = evidence_of(subject)
    groups = evidence.splits.groups[evidence.indices]
    correct = evidence.predictions.predicted == evidence.predictions.labels
    everything = np.ones(len(groups), dtype=bool)
    first = np.zeros(len(groups), dtype=bool)
    first[np.unique(groups, return_index=True)[1]] = True
    unseen = ~np.isin(evidence.indices, evidence.splits.leaked(evidence.split))
    others = "training or validation" if evidence.split == "test" else "training"
    rows = []
    for name, included in (
        ("All images", everything),
        ("Each distinct image once", first),
        (f"Without images that {others} also has", unseen),
        (f"Distinct, and not in {others}", first & unseen),
    ):
        if not included.any():
            rows.append((name, "0", "–", "–"))
            continue
        accuracy = accuracy_of(correct=int(correct[included].sum()), n=int(included.sum()))
        value, low, high = (f"{100 * number:.2f}" for number in (accuracy.value, accuracy.low, accuracy.high))
        percent = "\N{NO-BREAK SPACE}%"
        rows.append((name, f"{accuracy.n:,}", f"{value}{percent}", f"{low} to {high}{percent}"))
    columns = (f"{evidence.split.capitalize()} split", "Images", "Accuracy", "95\N{NO-BREAK SPACE}% interval")
    return (Table("Accuracy with and without duplicates", columns, tuple(rows)),)

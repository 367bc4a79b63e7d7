"""Metrics of predictions, frequent confusions and suspected label errors; numpy only."""

from collections.abc import Collection, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from convscope.results.run import Accuracy, ClassMetrics, Metrics, Predictions, accuracy_of

TOPK = (1, 3, 5)


def make_predictions(
    *, logits: NDArray[np.float32], labels: NDArray[np.int64], ids: tuple[str, ...], class_names: tuple[str, ...]
) -> Predictions:
    """Return the softmax and the cross-entropy of each image of logits [N, K], computed in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return Predictions(
        ids=ids,
        labels=labels,
        probabilities=np.exp(log_probabilities).astype(np.float32),
        losses=-log_probabilities[np.arange(len(labels)), labels],
        class_names=class_names,
    )


def compute_metrics(predictions: Predictions) -> Metrics:
    """Return accuracy with its interval, loss, top-k accuracy, the metrics of each class and the confusion matrix."""
    labels, predicted = predictions.labels, predictions.predicted
    num_classes = len(predictions.class_names)
    confusion = np.zeros((num_classes, num_classes), dtype=np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    return Metrics(
        accuracy=accuracy_of(correct=int(confusion.trace()), n=len(labels)),
        loss=float(predictions.losses.mean()),
        topk_accuracy={k: topk_accuracy(predictions, k) for k in TOPK if k < num_classes},
        per_class=tuple(_class_metrics(predictions.class_names, confusion)),
        confusion=confusion,
    )


def baseline_of(predictions: Predictions, train_counts: Sequence[int]) -> tuple[str, float]:
    """Return the most frequent class of the training split, and the accuracy of always naming it.

    Args:
        train_counts: training images of each class, K numbers; of equal ones the first class counts.
    """
    largest = int(np.argmax(train_counts))
    return predictions.class_names[largest], float((predictions.labels == largest).mean())


def accuracy_without(predictions: Predictions, left_out: Collection[str]) -> Accuracy | None:
    """Return the accuracy on the images whose id is not in `left_out`; None if that is all of them or none."""
    included = np.array([id_ not in left_out for id_ in predictions.ids])
    if included.all() or not included.any():
        return None
    correct = predictions.predicted[included] == predictions.labels[included]
    return accuracy_of(correct=int(correct.sum()), n=len(correct))


def topk_accuracy(predictions: Predictions, k: int) -> float:
    """Return the top-k accuracy; of equally probable classes the first one counts as more probable."""
    best = np.argsort(-predictions.probabilities, axis=1, kind="stable")[:, :k]
    return float((best == predictions.labels[:, None]).any(axis=1).mean())


def _class_metrics(names: tuple[str, ...], confusion: NDArray[np.int64]) -> Iterable[ClassMetrics]:
    for index, name in enumerate(names):
        hits, true = int(confusion[index, index]), int(confusion[index].sum())
        called = int(confusion[:, index].sum())
        yield ClassMetrics(
            name=name,
            n=true,
            precision=hits / called if called else None,
            recall=hits / true if true else None,
            f1=2 * hits / (true + called) if true + called else None,
        )


def most_confused_cells(confusion: NDArray[np.int64], most: int) -> list[tuple[int, int]]:
    """Return the up to `most` largest nonzero cells (actual, predicted) off the diagonal; ties in class order."""
    mistakes = confusion.copy()
    np.fill_diagonal(mistakes, 0)
    order = np.argsort(-mistakes, axis=None, kind="stable")[:most]
    columns = confusion.shape[1]
    return [divmod(int(cell), columns) for cell in order if mistakes.flat[cell]]


def suspected_label_errors(predictions: Predictions) -> list[tuple[int, int]]:
    """Return (image number, likelier class) where the label looks wrong, worst first.

    A class is likely for an image if its probability reaches the class's mean over the images with that label. A label
    is suspected if the most probable of the likely classes is another one; the worst label has the largest gap in
    probability. The network must not have been trained on these images.

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

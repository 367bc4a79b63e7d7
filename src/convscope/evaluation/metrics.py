"""Predictions to figures; numpy only."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np
from numpy.typing import NDArray

from convscope.results import Accuracy, ClassMetrics, Metrics, Predictions, accuracy_of

TOPK = (1, 3, 5)


def make_predictions(
    *, logits: NDArray[np.float32], labels: NDArray[np.int64], ids: tuple[str, ...], class_names: tuple[str, ...]
) -> Predictions:
    """Return probabilities (softmax) and per-picture cross-entropy of logits [N, K], computed in float64."""
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
    """Return accuracy with its interval, loss, top-k, figures for each class and the confusion matrix."""
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


def accuracy_without(predictions: Predictions, left_out: Collection[str]) -> Accuracy | None:
    """Return the accuracy on the pictures that are not in `left_out`, by id; None if none is left out, or none left."""
    kept = np.array([id_ not in left_out for id_ in predictions.ids])
    if kept.all() or not kept.any():
        return None
    right = predictions.predicted[kept] == predictions.labels[kept]
    return accuracy_of(correct=int(right.sum()), n=len(right))


def topk_accuracy(predictions: Predictions, k: int) -> float:
    """Return the fraction of pictures whose true class is among the k most probable; ties go to the lower class."""
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

"""Predictions and results in the form of the run folder's files."""

from collections.abc import Iterator
from dataclasses import asdict, fields
from typing import Any

import numpy as np

from convscope.results.run import Predictions, RunResult

PREDICTION_COLUMNS = ("image", "true", "predicted", "p_true", "p_pred", "loss")


def prediction_rows(predictions: Predictions) -> Iterator[tuple[str, ...]]:
    """Yield the rows of predictions.csv in the order of the data."""
    return _rows(predictions, np.arange(len(predictions.labels)))


def mistake_rows(predictions: Predictions) -> Iterator[tuple[str, ...]]:
    """Yield the rows of mistakes.csv: the wrong predictions, largest loss first."""
    wrong = np.flatnonzero(predictions.predicted != predictions.labels)
    return _rows(predictions, wrong[np.argsort(-predictions.losses[wrong], kind="stable")])


def result_to_json(result: RunResult) -> dict[str, Any]:
    """Return the content of results.json."""
    metrics = result.metrics
    tree = {field.name: getattr(result, field.name) for field in fields(result) if field.name != "metrics"}
    without = result.accuracy_without_leaked
    return tree | {
        "accuracy_without_leaked": without and asdict(without),
        "accuracy": asdict(metrics.accuracy),
        "loss": metrics.loss,
        "topk_accuracy": {str(k): value for k, value in metrics.topk_accuracy.items()},
        "per_class": [asdict(entry) for entry in metrics.per_class],
        "confusion": metrics.confusion.tolist(),
    }


def _rows(predictions: Predictions, indices: np.ndarray[Any, np.dtype[np.int64]]) -> Iterator[tuple[str, ...]]:
    names, predicted = predictions.class_names, predictions.predicted
    for i in indices:
        true, best = predictions.labels[i], predicted[i]
        numbers = (predictions.probabilities[i, true], predictions.probabilities[i, best], predictions.losses[i])
        yield predictions.ids[i], names[true], names[best], *(f"{number:.6g}" for number in numbers)

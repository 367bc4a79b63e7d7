"""Predictions and results in the form of the run folder's files."""

from collections.abc import Iterator
from dataclasses import asdict, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convscope.results.run import Accuracy, Predictions, RunResult
from convscope.seeds import permutation

PREDICTION_COLUMNS = ("image", "true", "predicted", "p_true", "p_pred", "loss")


def prediction_rows(predictions: Predictions) -> Iterator[tuple[str, ...]]:
    """Yield the rows of predictions.csv in the order of the data."""
    return _rows(predictions, np.arange(len(predictions.labels)))


def shown_order(n: int, seed: int) -> NDArray[np.int64]:
    """Return the order in which a page shows n predictions: a shuffle by the seed of the run, int64 [n]."""
    return permutation(n, seed, "shown")


def mistake_rows(predictions: Predictions) -> Iterator[tuple[str, ...]]:
    """Yield the rows of mistakes.csv: the wrong predictions, largest loss first."""
    wrong = np.flatnonzero(predictions.predicted != predictions.labels)
    return _rows(predictions, wrong[np.argsort(-predictions.losses[wrong], kind="stable")])


def result_to_json(result: RunResult) -> dict[str, Any]:
    """Return the content of results.json."""
    metrics, other = result.metrics, result.other_data
    nested = {"metrics", "other_data"}
    tree = {field.name: getattr(result, field.name) for field in fields(result) if field.name not in nested}
    if other is not None:
        tree |= {
            "source": other.source,
            "skipped": [{"path": item.file, "reason": item.reason, "remedy": item.remedy} for item in other.skipped],
            "trained_on": {"images": other.trained_on, "accuracy_without": _accuracy(other.accuracy_without)},
        }
    return tree | {
        "accuracy_without_leaked": _accuracy(result.accuracy_without_leaked),
        "accuracy": asdict(metrics.accuracy),
        "loss": metrics.loss,
        "topk_accuracy": {str(k): value for k, value in metrics.topk_accuracy.items()},
        "per_class": [asdict(entry) for entry in metrics.per_class],
        "confusion": metrics.confusion.tolist(),
    }


def _accuracy(accuracy: Accuracy | None) -> dict[str, Any] | None:
    return None if accuracy is None else asdict(accuracy)


def _rows(predictions: Predictions, indices: NDArray[np.int64]) -> Iterator[tuple[str, ...]]:
    names, predicted = predictions.class_names, predictions.predicted
    for i in indices:
        true, best = predictions.labels[i], predicted[i]
        numbers = (predictions.probabilities[i, true], predictions.probabilities[i, best], predictions.losses[i])
        yield predictions.ids[i], names[true], names[best], *(f"{number:.6g}" for number in numbers)

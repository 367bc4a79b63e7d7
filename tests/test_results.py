from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn import metrics as sk

from convscope.evaluation.metrics import compute_metrics, make_predictions, topk_accuracy
from convscope.evaluation.records import mistake_rows, prediction_rows
from convscope.results.run import Predictions, accuracy_of


@pytest.mark.parametrize(("correct", "n"), [(0, 1), (1, 1), (0, 50), (50, 50), (973, 1000), (9901, 10000), (1, 3)])
def test_wilson_interval_is_scipys(correct: int, n: int) -> None:
    ours = accuracy_of(correct=correct, n=n)
    theirs = binomtest(correct, n).proportion_ci(method="wilson")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


@pytest.mark.parametrize(("correct", "n"), [(1, 0), (-1, 3), (4, 3)])
def test_impossible_counts_are_refused(correct: int, n: int) -> None:
    with pytest.raises(ValueError, match="accuracy needs"):
        accuracy_of(correct=correct, n=n)


@pytest.fixture(scope="module")
def predictions() -> Predictions:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 6, 400)
    logits = rng.normal(size=(400, 7)).astype(np.float32)  # class 6 never occurs
    logits[np.arange(400), labels] += 1.5
    ids = tuple(map(str, range(400)))
    return make_predictions(logits=logits, labels=labels, ids=ids, class_names=tuple("abcdefg"))


def test_metrics_are_scikit_learns(predictions: Predictions) -> None:
    ours, said = compute_metrics(predictions), predictions.predicted
    p64 = predictions.probabilities.astype(np.float64)
    assert ours.accuracy.value == sk.accuracy_score(predictions.labels, said)
    assert ours.loss == pytest.approx(
        sk.log_loss(predictions.labels, p64 / p64.sum(axis=1, keepdims=True), labels=range(7)), rel=1e-6
    )
    assert np.array_equal(ours.confusion, sk.confusion_matrix(predictions.labels, said, labels=range(7)))
    precision, recall, f1, support = sk.precision_recall_fscore_support(
        predictions.labels, said, labels=range(7), zero_division=np.nan
    )
    for index, entry in enumerate(ours.per_class):
        assert entry.n == support[index]
        for mine, other in ((entry.precision, precision), (entry.recall, recall)):
            assert mine is None if np.isnan(other[index]) else mine == pytest.approx(other[index])
        if entry.f1 is not None and not np.isnan(f1[index]):
            assert entry.f1 == pytest.approx(f1[index])


@pytest.mark.parametrize("k", [1, 3, 5])
def test_topk_is_scikit_learns(predictions: Predictions, k: int) -> None:
    theirs = sk.top_k_accuracy_score(predictions.labels, predictions.probabilities, k=k, labels=range(7))
    assert topk_accuracy(predictions, k) == pytest.approx(theirs)


def test_huge_logits_give_finite_losses() -> None:
    logits = np.array([[1e4, -1e4], [-1e4, 1e4]], dtype=np.float32)
    predictions = make_predictions(logits=logits, labels=np.array([0, 0]), ids=("a", "b"), class_names=("x", "y"))
    assert predictions.losses.tolist() == [0.0, 2e4]


def test_mistakes_are_the_wrong_ones_worst_first(predictions: Predictions) -> None:
    rows = list(prediction_rows(predictions))
    wrong = [row for row in rows if row[1] != row[2]]
    mistakes = list(mistake_rows(predictions))
    assert sorted(mistakes) == sorted(wrong)
    losses = [float(row[5]) for row in mistakes]
    assert losses == sorted(losses, reverse=True)
    assert len(rows) == 400

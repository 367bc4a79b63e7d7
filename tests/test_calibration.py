"""Calibration and temperature agree with scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV, calibration_curve
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import log_loss

import convscope
from convscope.evaluation.calibration import NUM_BINS, fit_temperature, measure_reliability
from convscope.evaluation.metrics import make_predictions
from convscope.evaluation.records import shown_order
from convscope.results.panels import Curves, FeatureMaps, Heat, ImageGrid, Line, Matrix, Table
from convscope.results.run import Predictions
from convscope.storage.files import read_csv, read_json
from convscope.storage.panels import read_panels, write_panels


def made(n: int = 3000, k: int = 5, sharpness: float = 2.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return logits and labels: labels are drawn from softmax(logits / sharpness), the true temperature."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (n, k)).astype(np.float32)
    noise = rng.gumbel(size=(n, k))
    return logits, (logits / sharpness + noise).argmax(axis=1)


def predictions_of(logits: np.ndarray, labels: np.ndarray) -> Predictions:
    names = tuple(map(str, range(logits.shape[1])))
    return make_predictions(logits=logits, labels=labels, ids=tuple(map(str, range(len(labels)))), class_names=names)


@pytest.mark.parametrize(("n", "k"), [(3000, 5), (50, 2), (1, 3)])
def test_bins_and_error_equal_scikit_learns(n: int, k: int) -> None:
    logits, labels = made(n, k)
    predictions = predictions_of(logits, labels)
    found = measure_reliability(predictions)
    confidence = predictions.probabilities.max(axis=1).astype(np.float64)
    correct = predictions.predicted == labels
    accuracy, mean_confidence = calibration_curve(correct, confidence, n_bins=NUM_BINS, strategy="uniform")
    filled = [each for each in found.bins if each.n]
    assert [each.accuracy for each in filled] == pytest.approx(accuracy.tolist())
    assert [each.confidence for each in filled] == pytest.approx(mean_confidence.tolist())
    assert sum(each.n for each in found.bins) == found.n == n
    assert all(each.accuracy is None for each in found.bins if not each.n)
    weights = np.array([each.n for each in filled]) / n
    assert found.ece == pytest.approx(float(weights @ np.abs(accuracy - mean_confidence)))
    probabilities = predictions.probabilities.astype(np.float64)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    assert found.loss == pytest.approx(log_loss(labels, probabilities, labels=range(k)), rel=1e-5)


class Logits(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A fitted classifier whose inputs are its logits."""

    def fit(self, x: np.ndarray, y: np.ndarray) -> Logits:
        self.classes_ = np.unique(y)
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.classes_[x.argmax(axis=1)]

    def decision_function(self, x: np.ndarray) -> np.ndarray:
        return x


@pytest.mark.parametrize("sharpness", [0.4, 1.0, 2.0, 6.0])
def test_temperature_equals_scikit_learns_and_the_true_one(sharpness: float) -> None:
    logits, labels = made(20_000, sharpness=sharpness)
    found = fit_temperature(logits, labels)
    assert found is not None
    assert found == pytest.approx(sharpness, rel=0.05)
    fitted = CalibratedClassifierCV(FrozenEstimator(Logits().fit(logits, labels)), method="temperature")
    expected = fitted.fit(logits[:2000], labels[:2000]).predict_proba(logits[:50])
    ours = predictions_of(logits[:50] / np.float32(fit_temperature(logits[:2000], labels[:2000]) or 0), labels[:50])
    assert np.allclose(ours.probabilities, expected, atol=1e-3)


def test_temperature_lowers_the_loss_and_keeps_predictions() -> None:
    logits, labels = made(sharpness=3.0)
    best = fit_temperature(logits, labels)
    assert best is not None
    losses = {
        t: float(predictions_of(logits / np.float32(t), labels).losses.mean())
        for t in (best, best * 1.02, best / 1.02, 1)
    }
    assert min(losses, key=losses.__getitem__) == best
    assert (predictions_of(logits / np.float32(best), labels).predicted == logits.argmax(axis=1)).all()


def test_no_temperature_if_all_predictions_are_correct_and_a_finite_one_if_all_are_wrong() -> None:
    logits = np.eye(3, dtype=np.float32)[[0, 1, 2]] * 5
    assert fit_temperature(logits, np.array([0, 1, 2])) is None
    assert fit_temperature(logits[:0], np.array([], np.int64)) is None
    assert 100 < (fit_temperature(logits, np.array([1, 2, 0])) or 0) < 1e4
    assert np.isfinite(fit_temperature(np.zeros((4, 3), np.float32), np.array([0, 1, 2, 0])) or 0)


def test_a_run_records_its_calibration_and_one_image(tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = convscope.train("digits", epochs=2, out=run)
    recorded, rows = read_json(run / "calibration.json"), read_csv(run / "predictions.csv")
    confidence = np.array([float(row["p_pred"]) for row in rows])
    correct = np.array([row["predicted"] == row["true"] for row in rows])
    accuracy, mean_confidence = calibration_curve(correct, confidence, n_bins=NUM_BINS)
    filled = [each for each in recorded["as_trained"]["bins"] if each["n"]]
    assert [each["accuracy"] for each in filled] == pytest.approx(accuracy.tolist())
    assert [each["confidence"] for each in filled] == pytest.approx(mean_confidence.tolist(), rel=1e-4)
    assert recorded["as_trained"]["loss"] == result.metrics.loss
    assert recorded["fitted_on"] == sum(row["split"] == "validation" for row in read_csv(run / "split.csv"))
    assert recorded["temperature"] > 0
    assert recorded["scaled"]["n"] == result.metrics.accuracy.n
    panels = read_panels(run / "inside.npz")
    assert panels is not None
    heat, prediction, maps = panels
    assert isinstance(heat, Heat)
    assert isinstance(prediction, Table)
    assert isinstance(maps, FeatureMaps)
    shown = rows[shown_order(len(rows), 0)[0]]
    assert prediction.rows[0] == ("Image", shown["image"])
    assert prediction.rows[1] == ("Actual class", shown["true"])
    assert prediction.rows[2][0] == f"Probability of {shown['predicted']}"
    assert "Inside the network" in (run / "report.html").read_text("utf-8")


def test_without_a_validation_split_no_temperature_is_fitted(tmp_path: Path) -> None:
    run = tmp_path / "run"
    convscope.train("digits", model="mlp", epochs=1, split=(80.0, 0.0, 20.0), out=run)
    recorded = read_json(run / "calibration.json")
    assert recorded["temperature"] is None
    assert recorded["scaled"] is None
    assert "not fitted" in (run / "report.html").read_text("utf-8")


def test_panels_are_equal_after_writing_and_reading(tmp_path: Path) -> None:
    numbers = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    panels = (
        ImageGrid("t", (np.zeros((2, 2, 1), np.uint8),), ("a\nb",), (True,)),
        Curves("t", "x", "y", (Line("l", (1.0, 2.0), (None, 3.0), ("n", "m")),), note_label="n"),
        Matrix("t", "r", "c", ("a",), ("b", "\udcff"), np.array([[1, 2]])),
        Table("t", ("a", "b"), (("1", "<b>"),)),
        FeatureMaps("t", (numbers,), ("c",)),
        Heat("t", np.zeros((2, 2, 3), np.uint8), (numbers[0],), ("c",)),
    )
    write_panels(tmp_path / "p.npz", panels)
    back = read_panels(tmp_path / "p.npz")
    assert repr(back) == repr(panels)
    assert read_panels(tmp_path / "none.npz") is None

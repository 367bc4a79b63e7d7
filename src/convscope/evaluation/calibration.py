"""Calibration: whether a network's accuracy equals its confidence; numpy only.

Source: C. Guo et al., On Calibration of Modern Neural Networks, ICML 2017. ECE depends on the number of bins: they use
15, we use 10, so that a student can read them off in tenths.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convscope.evaluation.metrics import make_predictions
from convscope.results.panels import Curves, Line, Panel, Table
from convscope.results.run import Calibration, Predictions, Reliability, ReliabilityBin
from convscope.schema import checked

NUM_BINS = 10
LEAST_BETA, GREATEST_BETA = 1e-3, 1e3
"""Limits of 1 / temperature."""
MAX_STEPS = 100


def calibrate(
    split: str,
    logits: NDArray[np.float32],
    labels: NDArray[np.int64],
    *,
    validation_logits: NDArray[np.float32],
    validation_labels: NDArray[np.int64],
) -> Calibration:
    """Return the reliability of the logits [N, K] of a split, unchanged and divided by the best temperature.

    Args:
        validation_logits, validation_labels: of other images, [M, K] and [M], to fit the temperature on.
    """
    temperature = fit_temperature(validation_logits, validation_labels)
    scaled = None if temperature is None else _reliability_of(logits / np.float32(temperature), labels)
    return Calibration(split, _reliability_of(logits, labels), len(validation_labels), temperature, scaled)


def _reliability_of(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> Reliability:
    n, k = logits.shape
    return measure_reliability(make_predictions(logits=logits, labels=labels, ids=("",) * n, class_names=("",) * k))


def measure_reliability(predictions: Predictions) -> Reliability:
    """Return accuracy against confidence, bin by bin, and the expected calibration error."""
    confidence = predictions.probabilities.max(axis=1).astype(np.float64)
    correct = predictions.predicted == predictions.labels
    edges = np.linspace(0, 1, NUM_BINS + 1)
    places = np.searchsorted(edges[1:-1], confidence)  # a value on an edge belongs to the bin below
    bins = []
    for index in range(NUM_BINS):
        inside = places == index
        n = int(inside.sum())
        bins.append(
            ReliabilityBin(
                low=float(edges[index]),
                high=float(edges[index + 1]),
                n=n,
                confidence=float(confidence[inside].mean()) if n else None,
                accuracy=float(correct[inside].mean()) if n else None,
            )
        )
    gaps = sum(
        b.n * abs(b.accuracy - b.confidence) for b in bins if b.accuracy is not None and b.confidence is not None
    )
    n = len(confidence)
    return Reliability(n=n, ece=gaps / n, loss=float(predictions.losses.mean()), bins=tuple(bins))


def fit_temperature(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float | None:
    """Return the T for which softmax(logits / T) has the lowest mean cross-entropy on these images.

    The loss is convex in 1 / T. Newton steps find its minimum; a step that leaves the bracket is replaced by halving
    it. Without a wrong prediction the loss has no minimum, and None is returned.

    Args:
        logits: [N, K]. labels: class numbers [N]. Not of test images, because this is a choice.
    """
    if (logits.argmax(axis=1) == labels).all():
        return None
    z = logits.astype(np.float64)
    z -= z.max(axis=1, keepdims=True)
    of_label = z[np.arange(len(labels)), labels]
    low, high, beta = LEAST_BETA, GREATEST_BETA, 1.0
    for _ in range(MAX_STEPS):
        weights = np.exp(beta * z)
        weights /= weights.sum(axis=1, keepdims=True)
        mean = (weights * z).sum(axis=1)
        slope = float((mean - of_label).mean())
        low, high = (low, beta) if slope > 0 else (beta, high)
        curvature = float((weights * z**2).sum(axis=1).mean() - (mean**2).mean())
        step = beta - slope / curvature if curvature > 0 else low
        new = step if low < step < high else float(np.sqrt(low * high))
        if abs(new - beta) <= 1e-9 * beta:
            break
        beta = new
    return 1 / beta


# ---------------------------------------------------------------- panels


def calibration_from_json(tree: Mapping[str, Any]) -> Calibration:
    """Return the calibration that calibration.json holds; raises ValueError, which names what is wrong with it."""
    calibration: Calibration = checked(tree, Calibration, "calibration.json:")
    return calibration


def calibration_panels(calibration: Calibration) -> tuple[Panel, ...]:
    """Return the reliability as trained and with the temperature, if there is one, and the numbers of both."""
    charts = [_curves("As trained", calibration.as_trained)]
    if calibration.scaled is not None:
        charts.append(_curves(f"With temperature {calibration.temperature:.2f}", calibration.scaled))
    return (*charts, _numbers(calibration))


def _curves(name: str, measured: Reliability) -> Curves:
    x = tuple(50 * (each.low + each.high) for each in measured.bins)
    notes = tuple(f"{each.n:,}" for each in measured.bins)
    confidence = tuple(None if each.confidence is None else 100 * each.confidence for each in measured.bins)
    accuracy = tuple(None if each.accuracy is None else 100 * each.accuracy for each in measured.bins)
    return Curves(
        f"{name}: ECE {_percent(measured.ece)}",
        "confidence, in bins of ten (%)",
        "confidence and accuracy (%)",
        (Line("confidence", x, confidence, notes), Line("accuracy", x, accuracy, notes)),
        note_label="images",
    )


def _numbers(calibration: Calibration) -> Table:
    before, after, temperature = calibration.as_trained, calibration.scaled, calibration.temperature
    rows = [
        ("Images", f"{before.n:,}"),
        ("Expected calibration error (ECE), as trained", _percent(before.ece)),
        ("Loss (mean cross-entropy, nats), as trained", f"{before.loss:.4f}"),
    ]
    if after is None or temperature is None:
        reason = "every validation image is classified correctly" if calibration.fitted_on else "no validation split"
        rows.append(("Temperature", f"not fitted: {reason}"))
    else:
        meaning = "too confident" if temperature > 1 else "not confident enough"
        rows += [
            ("Temperature, which divides the logits", f"{temperature:.3f}"),
            (f"Validation images it was fitted on (the network is {meaning})", f"{calibration.fitted_on:,}"),
            ("Expected calibration error with the temperature", _percent(after.ece)),
            ("Loss with the temperature", f"{after.loss:.4f}"),
        ]
    return Table(f"Calibration on the {calibration.split} split", ("What", "Value"), tuple(rows))


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f}\N{NO-BREAK SPACE}%"

"""Whether a network is right as often as it is sure; numpy only.

Source: C. Guo et al., On Calibration of Modern Neural Networks, ICML 2017. ECE depends on the number of bins: theirs
are 15, ours 10, so that a student can read them off in tenths.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from convscope.results import Calibration, Predictions, ReliabilityBin

NUM_BINS = 10
LEAST_BETA, GREATEST_BETA = 1e-3, 1e3
"""Limits of 1 / temperature."""
MAX_STEPS = 100


def measure_calibration(predictions: Predictions) -> Calibration:
    """Return how often the most probable class is right, bin by bin of its probability, and the expected error."""
    confidence = predictions.probabilities.max(axis=1).astype(np.float64)
    right = predictions.predicted == predictions.labels
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
                accuracy=float(right[inside].mean()) if n else None,
            )
        )
    gaps = sum(
        b.n * abs(b.accuracy - b.confidence) for b in bins if b.accuracy is not None and b.confidence is not None
    )
    n = len(confidence)
    return Calibration(n=n, ece=gaps / n, loss=float(predictions.losses.mean()), bins=tuple(bins))


def fit_temperature(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float | None:
    """Return the T for which softmax(logits / T) has the least mean cross-entropy on these pictures.

    The loss is convex in 1 / T; its lowest point is found by Newton's steps, halving the bracket where one leaves it.
    Without a mistake there is none, and None is returned: the surer, the better, is no answer.

    Args:
        logits: [N, K]. labels: class numbers [N]. They must be no test pictures: this is a choice.
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

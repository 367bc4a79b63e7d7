"""When a picture is answered `unknown`: a threshold chosen on validation pictures alone.

A picture counts as like those of the training if what the last layer is given of it points where that of a class
points, on average. benchmarks/results/unknown_score.md compares this with the probability of the best class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convscope.engine import COSINE, SCORES, UnknownRule

KEPT = 0.95
"""Fraction of the validation pictures that keep their class."""
MIN_PICTURES = 20
"""With fewer the lowest twentieth is not even one picture."""
LEAST_OF_CLASS = 5
"""A class of fewer validation pictures has no mean to speak of; then the probability decides."""
SHORTEST = 1e-12
"""Vectors are divided by their length, or by this where they have none."""

Floats = NDArray[np.float32]
Centres = Floats
"""Mean direction of the features of each class, float32 [K, F] of length 1."""


@dataclass(frozen=True)
class Choice:
    """A rule, and the centres that it measures from; None where it goes by the logits alone."""

    rule: UnknownRule
    centres: Centres | None

    def scores(self, logits: Floats, features: Floats | None) -> NDArray[np.float64]:
        """Return how like those of the training N pictures are, from logits [N, K] and features [N, F]."""
        if self.centres is None:
            return SCORES[self.rule.score](logits)
        assert features is not None
        return np.asarray((_unit(features) @ self.centres.T).max(axis=1), np.float64)


def choose_rule(
    logits: Floats, features: Floats | None, labels: NDArray[np.int64], score: str = "max-probability"
) -> Choice | None:
    """Return the rule that keeps KEPT of the validation pictures; None for too few.

    Args:
        logits, features: float32 [N, K] and [N, F] of the validation pictures; features None where there are none.
        labels: int64 [N].
        score: by which to go without features.
    """
    if len(logits) < MIN_PICTURES:
        return None
    centres = None
    if features is not None and np.bincount(labels, minlength=logits.shape[1]).min() >= LEAST_OF_CLASS:
        unit, number = _unit(features), logits.shape[1]
        sums = np.stack([unit[labels == label].sum(axis=0) for label in range(number)])
        centres, score = _unit(sums), COSINE
        values = unit @ centres.T
        own = _unit(sums[labels] - unit)  # without the picture itself, which would be like its own mean
        values[np.arange(len(unit)), labels] = (unit * own).sum(axis=1)
        values = values.max(axis=1).astype(np.float64)
    else:
        values = SCORES[score](logits)
    threshold = float(np.quantile(values, 1 - KEPT, method="lower"))
    return Choice(UnknownRule(score, threshold, float((values >= threshold).mean()), len(values)), centres)


def _unit(vectors: Floats) -> Floats:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), SHORTEST), np.float32)

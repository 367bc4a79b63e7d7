"""When a picture is answered `unknown`: a threshold chosen on validation pictures alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from convscope.engine import SCORES, UnknownRule

KEPT = 0.95
"""Fraction of the validation pictures that keep their class."""
SCORE = "max-probability"
MIN_PICTURES = 20
"""With fewer the lowest twentieth is not even one picture."""


def choose_rule(logits: NDArray[np.float32], score: str = SCORE) -> UnknownRule | None:
    """Return the rule that keeps KEPT of the validation pictures, from their logits [N, K]; None for too few."""
    if len(logits) < MIN_PICTURES:
        return None
    values = SCORES[score](logits)
    threshold = float(np.quantile(values, 1 - KEPT, method="lower"))
    return UnknownRule(score, threshold, kept=float((values >= threshold).mean()), n=len(values))

"""Learning rates as functions of the share of the run that is done."""

from __future__ import annotations

from collections.abc import Callable
from math import cos, pi

WARM_UP = 0.3
"""Share of a one-cycle run in which the learning rate rises."""
START_FACTOR, END_FACTOR = 0.04, 0.0


def constant(progress: float) -> float:
    """Return 1 throughout."""
    return 1.0


def one_cycle(progress: float) -> float:
    """Return the factor of the peak learning rate: up along a cosine for 30 % of the run, then down to zero.

    Args:
        progress: share of the steps that are done, 0..1.

    Source: Smith and Topin, arXiv:1708.07120.
    """
    if progress < WARM_UP:
        return _between(START_FACTOR, 1.0, progress / WARM_UP)
    return _between(1.0, END_FACTOR, (progress - WARM_UP) / (1 - WARM_UP))


SCHEDULES: dict[str, Callable[[float], float]] = {"constant": constant, "one-cycle": one_cycle}


def _between(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + cos(pi * min(share, 1.0))) / 2

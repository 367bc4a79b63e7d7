"""Learning rates as functions of the share of the run that is done."""

from __future__ import annotations

from collections.abc import Callable

WARM_UP = 0.3
"""Share of a one-cycle run in which the learning rate rises."""
START_FACTOR = 0.04


def constant(progress: float) -> float:
    """Return 1 throughout."""
    return 1.0


def one_cycle(progress: float) -> float:
    """Return the factor of the peak learning rate: a straight line up for 30 % of the run, then down to zero.

    Args:
        progress: share of the steps that are done, 0..1.

    Source: Smith and Topin, arXiv:1708.07120; straight lines as there, not the cosines of torch's OneCycleLR.
    """
    if progress < WARM_UP:
        return START_FACTOR + (1 - START_FACTOR) * progress / WARM_UP
    return max(0.0, (1 - progress) / (1 - WARM_UP))


SCHEDULES: dict[str, Callable[[float], float]] = {"constant": constant, "one-cycle": one_cycle}

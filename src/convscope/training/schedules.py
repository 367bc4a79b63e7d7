"""Learning rate schedules as functions of the finished share of the run."""

from collections.abc import Callable

WARM_UP = 0.3
"""Share of the run in which a one-cycle learning rate rises."""
START_FACTOR = 0.04


def one_cycle(progress: float) -> float:
    """Return the share of the peak learning rate: linear up for 30 % of the run, then linear down to zero.

    Source: Smith and Topin, arXiv:1708.07120; linear as there, unlike the cosines of torch's OneCycleLR.
    """
    if progress < WARM_UP:
        return START_FACTOR + (1 - START_FACTOR) * progress / WARM_UP
    return max(0.0, (1 - progress) / (1 - WARM_UP))


SCHEDULES: dict[str, Callable[[float], float]] = {"constant": lambda progress: 1.0, "one-cycle": one_cycle}
"""Name -> function of the finished share of the steps, 0..1, that returns the share of the peak learning rate."""

"""The time of a training, from the time of its steps."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from convscope.results import Duration

MEASURED_STEPS = (1.0, 2.0)
"""A real epoch takes so many times what its timed steps add up to: pictures are prepared, a validation part is
predicted and the state is saved as well, which weighs most in epochs of a second; see
benchmarks/results/training_time.md."""
ESTIMATED_STEPS = (1.0, 6.0)
"""The same where the steps are estimated from their operations."""


def predict_duration(
    step_seconds: Sequence[float],
    *,
    measured_batch: int | None,
    batch_size: int,
    accumulate: int,
    pictures: int,
    epochs: int,
) -> Duration:
    """Return how long an epoch and all of them take.

    Args:
        step_seconds: of batches of `measured_batch`, or of `batch_size` where they are estimated (None).
        batch_size: pictures in the network at a time.
    """
    least, most = ESTIMATED_STEPS if measured_batch is None else MEASURED_STEPS
    one = statistics.median(step_seconds) * batch_size / (measured_batch or batch_size)
    spread = max(step_seconds) / statistics.median(step_seconds), min(step_seconds) / statistics.median(step_seconds)
    epoch = one * pictures / batch_size
    return Duration(
        pictures=pictures,
        epochs=epochs,
        steps_an_epoch=math.ceil(math.ceil(pictures / batch_size) / accumulate),
        step_seconds=one * accumulate,
        epoch_seconds=epoch,
        run_seconds=epoch * epochs,
        low_factor=least * spread[1],
        high_factor=max(spread[0], most),
        measured_batch_size=measured_batch,
    )

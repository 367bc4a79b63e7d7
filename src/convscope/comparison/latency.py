"""The time of one prediction with a run's model file."""

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np

from convscope.errors import RunError
from convscope.inference.engine import Engine, load_engine
from convscope.inference.session import MODEL_FILE, threads_for

TURNS = 3
"""Rounds in which every network is loaded and measured in turn, so that a busy moment affects all of them."""
CALLS, TURN_SECONDS = 20, 0.25
"""A turn ends after CALLS calls or after TURN_SECONDS."""


def measure_latencies(runs: Sequence[Path]) -> list[float | None]:
    """Return the median time to predict one decoded image with the model file of each run, in milliseconds.

    All cores work on one image, as in `convscope predict` of one image. None if the model file cannot be used.
    """
    milliseconds: list[list[float]] = [[] for _ in runs]
    for _ in range(TURNS):
        for run, of_run in zip(runs, milliseconds, strict=True):
            try:
                of_run += _turn(load_engine(run / MODEL_FILE, threads=threads_for(1)[0]))
            except RunError:
                continue
    return [median(of_run) if of_run else None for of_run in milliseconds]


def _turn(engine: Engine) -> list[float]:
    fit = engine.card.fit
    assert fit.image_size is not None
    image = np.zeros((1, fit.image_size, fit.image_size, 1 if fit.gray else 3), np.uint8)
    engine.logits(image)  # the first call is slower, because it allocates memory
    found: list[float] = []
    end = time.perf_counter() + TURN_SECONDS
    while len(found) < CALLS and (not found or time.perf_counter() < end):
        start = time.perf_counter()
        engine.logits(image)
        found.append(1000 * (time.perf_counter() - start))
    return found

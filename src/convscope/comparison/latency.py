"""How long a network takes for one picture, through the model file that its run ends with."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np

from convscope.engine import Engine, load_engine
from convscope.errors import RunError
from convscope.onnx_session import MODEL_FILE, threads_for

TURNS = 3
"""Times that each network is loaded and measured; between them the others are, so that a busy moment hits all."""
CALLS, TURN_SECONDS = 20, 0.25
"""A turn ends after so many calls, or after this time."""


def measure_latencies(runs: Sequence[Path]) -> list[float | None]:
    """Return the median time of a call with one picture, in milliseconds, for the model file of each run.

    All processors work on one picture, as in `convscope predict` of one. Decoding is not part of it. None where there
    is no model file that can be used.
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
    picture = np.zeros((1, fit.image_size, fit.image_size, 1 if fit.gray else 3), np.uint8)
    engine.logits(picture)  # the first call is slower: memory is taken
    found: list[float] = []
    end = time.perf_counter() + TURN_SECONDS
    while len(found) < CALLS and (not found or time.perf_counter() < end):
        start = time.perf_counter()
        engine.logits(picture)
        found.append(1000 * (time.perf_counter() - start))
    return found

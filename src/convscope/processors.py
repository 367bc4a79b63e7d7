"""The processors: how many there are, and how idle threads wait, which is settled before torch is imported."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from typing import TypeVar

SPIN_COUNT = "1000"
"""Rounds that GNU OpenMP spins before a waiting thread sleeps.

Seconds for an epoch of N1 on two noisy cores, one process of three epochs for each figure. While another program used
one core: 2.5 without spinning, 3.1 with 1,000 rounds, 6 with 5,000, 11 to 13 with 20,000. Alone, three processes each:
1.8 to 2.2 without spinning, 1.5 to 2.0 with 1,000, 1.4 to 1.8 with OpenMP's default.
"""
SLICES_A_PROCESSOR = 4
"""So that none waits long for another whose slice took longer."""

T = TypeVar("T")


def let_idle_threads_sleep() -> None:
    """Ask OpenMP to spin only briefly while it waits, unless the user has chosen; before torch is imported."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)


def available_processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_slices(work: Callable[[slice], T], length: int, *, size: int | None = None) -> list[T]:
    """Return what `work` makes of consecutive slices of a sequence, in order.

    The slices are worked on in threads, which saves time where the work leaves Python's lock.

    Args:
        size: of a slice; None: so that there are a few for each processor.
    """
    processors = available_processors()
    size = size or max(1, -(-length // (SLICES_A_PROCESSOR * processors)))
    with ThreadPoolExecutor(processors, thread_name_prefix="slices") as pool:
        return list(pool.map(work, (slice(start, start + size) for start in range(0, length, size))))


UNKNOWN_ROOM_BYTES = 2 * 2**30
"""Free memory for a training whose need is not known. Small networks on mnist5k peaked at 0.6 to 0.8 GiB a process."""


def jobs_at_once(needed_bytes: Sequence[int | None]) -> int:
    """Return how many of these trainings are done at once on processors: one on each, where memory allows.

    Args:
        needed_bytes: what the process of each takes, None if that is not known; the largest of them must fit together.
    """
    import psutil  # not before it is needed: predictions start in a moment

    free = psutil.virtual_memory().available
    largest = sorted((needed or UNKNOWN_ROOM_BYTES for needed in needed_bytes), reverse=True)
    fitting = sum(together <= free for together in accumulate(largest))
    return max(1, min(fitting, available_processors()))

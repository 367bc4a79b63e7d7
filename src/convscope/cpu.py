"""The CPUs: how many there are, and how idle threads wait, which has to be set before torch is imported."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate
from typing import TypeVar

SPIN_COUNT = "1000"
"""Rounds that GNU OpenMP spins before a waiting thread sleeps.

Seconds per epoch of N1 on two noisy cores, from processes of three epochs. While another program uses one core: 2.5
without spinning, 3.1 with 1,000 rounds, 6 with 5,000, 11 to 13 with 20,000. Alone: 1.8 to 2.2 without spinning, 1.5 to
2.0 with 1,000 rounds, 1.4 to 1.8 with OpenMP's default.
"""
SLICES_A_PROCESSOR = 4
"""More than one, so that no thread waits long for another with a slower slice."""

T = TypeVar("T")
V = TypeVar("V")


def let_idle_threads_sleep() -> None:
    """Make waiting OpenMP threads spin only briefly, unless the user chose otherwise; call before importing torch."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)


def available_processors() -> int:
    """Return the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_slices(work: Callable[[slice], T], length: int, *, size: int | None = None) -> list[T]:
    """Return the results of `work` on consecutive slices of a sequence, in order.

    It runs in threads, which saves time if the work releases Python's lock.

    Args:
        size: of a slice; None makes a few slices per CPU.
    """
    processors = available_processors()
    size = size or max(1, -(-length // (SLICES_A_PROCESSOR * processors)))
    with ThreadPoolExecutor(processors, thread_name_prefix="slices") as pool:
        return list(pool.map(work, (slice(start, start + size) for start in range(0, length, size))))


def map_ahead(function: Callable[[V], T], values: Iterable[V], *, threads: int, ahead: int) -> Iterator[T]:
    """Yield function(value) in order, computed in threads; at most `ahead` results wait while one is used."""
    pending: deque[Future[T]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="ahead") as pool:
        try:
            for value in values:
                pending.append(pool.submit(function, value))
                if len(pending) > ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


UNKNOWN_ROOM_BYTES = 2 * 2**30
"""Memory reserved for a run of unknown need; small networks on mnist5k peaked at 0.6 to 0.8 GiB per process."""


def jobs_at_once(needed_bytes: Sequence[int | None]) -> int:
    """Return how many of these runs to train at once: one per CPU, if the memory of the largest ones allows it.

    Args:
        needed_bytes: memory of the process of each run, None if unknown.
    """
    import psutil  # imported late, so that `predict` starts fast

    free = psutil.virtual_memory().available
    largest = sorted((needed or UNKNOWN_ROOM_BYTES for needed in needed_bytes), reverse=True)
    fitting = sum(together <= free for together in accumulate(largest))
    return max(1, min(fitting, available_processors()))

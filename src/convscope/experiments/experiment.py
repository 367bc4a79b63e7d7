"""What an experiment is, how much it measures and what it returns."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from convscope.errors import UsageError
from convscope.progress import OnProgress
from convscope.results.panels import Panel

MIN_SEEDS = 2
"""One seed has no spread."""

SEEDS = 12
"""Networks of each variant. With 6, verdicts that rest on a point of accuracy differed from processor to processor."""


@dataclass(frozen=True)
class Setting:
    """How much to measure.

    Args:
        seeds: networks trained of each variant.
        quick: few images and one epoch: shows that an experiment works, not what its answer is.
        jobs: networks trained at the same time; None: one per core, where memory allows. It does not change the answer.
    """

    seeds: int
    quick: bool = False
    jobs: int | None = None

    def __post_init__(self) -> None:
        if self.seeds < MIN_SEEDS:
            raise UsageError(f"seeds {self.seeds} is too small to see a spread; --seeds takes {MIN_SEEDS} or more")
        if self.jobs is not None and self.jobs < 1:
            raise UsageError(f"jobs {self.jobs} is too small; --jobs takes 1 or more")


@dataclass(frozen=True)
class Finding:
    """What an experiment found.

    Args:
        answer: one sentence made from the numbers.
        method: what was trained and measured, on which data and how often.
        panels: in the order of the page; the first chart or image shows the answer.
        numbers: the measurements as JSON values.
    """

    answer: str
    method: str
    panels: tuple[Panel, ...]
    numbers: Mapping[str, Any]


@dataclass(frozen=True)
class Lab:
    """An experiment: a question and the function that answers it by measuring.

    Args:
        intro: one plain sentence that tells the reader what to look for.
        seeds: networks trained of each variant by default: as many as take a minute or two.
    """

    question: str
    intro: str
    run: Callable[[Setting, OnProgress], Finding]
    seeds: int = SEEDS

"""What an experiment of the laboratory is, and what it ends with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from convscope.errors import UsageError
from convscope.progress import OnProgress
from convscope.results import Panel

LEAST_SEEDS = 2
"""One seed has no spread."""


@dataclass(frozen=True)
class Setting:
    """How much is measured.

    Args:
        seeds: networks that are trained of each kind.
        quick: few pictures and one epoch: to see that an experiment works, not to believe its answer.
        jobs: networks trained at once; None is one a processor where memory allows. The answer does not depend on it.
    """

    seeds: int
    quick: bool = False
    jobs: int | None = None

    def __post_init__(self) -> None:
        if self.seeds < LEAST_SEEDS:
            raise UsageError(f"seeds {self.seeds} is too small to see a spread; --seeds takes {LEAST_SEEDS} or more")
        if self.jobs is not None and self.jobs < 1:
            raise UsageError(f"jobs {self.jobs} is too small; --jobs takes 1 or more")


@dataclass(frozen=True)
class Finding:
    """What an experiment found.

    Args:
        answer: one sentence that the numbers support, made from them.
        method: what was trained and measured, on what and how often; a sentence or two.
        panels: what is drawn, in this order; the first picture among them shows the answer.
        numbers: what was measured, as JSON takes it.
    """

    answer: str
    method: str
    panels: tuple[Panel, ...]
    numbers: Mapping[str, Any]


@dataclass(frozen=True)
class Lab:
    """An experiment: a question that is answered by measuring.

    Args:
        look: one plain sentence that says what to see in the pictures.
        find: measures and answers.
        seeds: networks of each kind that are trained unless told otherwise.
    """

    question: str
    look: str
    find: Callable[[Setting, OnProgress], Finding]
    seeds: int = 6

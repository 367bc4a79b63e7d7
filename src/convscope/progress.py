"""How far a stage is, told while it goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Progress:
    """One moment of a stage that takes time, for a progress display.

    Args:
        stage: what is being done, for example "epoch 3/10".
        done: units finished so far in this stage.
        total: units in all; None when unknown.
        unit: what is counted, for example "images".
        values: further figures to show, already in display order, for example {"loss": "0.31"}.
    """

    stage: str
    done: int
    total: int | None
    unit: str = "images"
    values: Mapping[str, str] = field(default_factory=dict)


OnProgress = Callable[[Progress], None]


def ignore_progress(progress: Progress) -> None:
    """Show nothing; the default wherever progress can be reported."""

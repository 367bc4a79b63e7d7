"""The progress of a stage, reported while it runs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Progress:
    """The progress of a stage at one moment.

    Args:
        stage: what is being done, for example "epoch 3/10".
        done: units finished so far in this stage.
        total: units in all; None when unknown.
        unit: what is counted, for example "images".
        values: further figures, in display order, for example {"loss": "0.31"}.
    """

    stage: str
    done: int
    total: int | None
    unit: str = "images"
    values: Mapping[str, str] = field(default_factory=dict)


OnProgress = Callable[[Progress], None]


def ignore_progress(progress: Progress) -> None:
    """Show nothing; the default wherever progress can be reported."""

"""Learning curves: loss and accuracy of both parts against epochs; the examples seen stand in the notes."""

from __future__ import annotations

from collections.abc import Callable

from convscope.report.section import RecordedRun, Section
from convscope.report.text import count_text
from convscope.results import Curves, EpochRecord, Line


def curves_section(run: RecordedRun) -> Section:
    """Return the two charts of training, left out before the first epoch has ended."""
    section = Section(
        title="Learning curves",
        intro="Both losses should fall: while the validation line follows the training line the network learns "
        "something general, where it turns away the network begins to learn the training pictures by heart.",
    )
    if not run.history:
        return Section(section.title, section.intro, missing="Left out: no epoch has been finished yet.")
    history = run.history
    return Section(
        section.title,
        section.intro,
        (
            _curves(
                "Loss",
                "loss (mean cross-entropy, nats)",
                _line("train", history, lambda record: record.train_loss),
                _line("validation", history, lambda record: record.validation_loss),
            ),
            _curves(
                "Accuracy",
                "accuracy (%)",
                _line("train", history, lambda record: _percent(record.train_accuracy)),
                _line("validation", history, lambda record: _percent(record.validation_accuracy)),
            ),
        ),
    )


def _line(name: str, history: tuple[EpochRecord, ...], value: Callable[[EpochRecord], float | None]) -> Line:
    return Line(
        name=name,
        x=tuple(float(record.epoch) for record in history),
        y=tuple(value(record) for record in history),
        notes=tuple(count_text(record.examples_seen) for record in history),
    )


def _curves(title: str, y_label: str, *lines: Line) -> Curves:
    measured = tuple(line for line in lines if any(y is not None for y in line.y))
    return Curves(title, "epoch", y_label, measured, note_label="examples seen")


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value

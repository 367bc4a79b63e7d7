"""Learning curves: loss and accuracy on the training and validation splits against epochs."""

from convscope.pages.section import LeftOut, RecordedRun, titled
from convscope.pages.text import count_text
from convscope.results.panels import Curves, Line
from convscope.results.run import EpochRecord


@titled(
    "Learning curves",
    "Both losses should fall: while the validation line follows the training line, the network learns something "
    "general; where it turns away, the network begins to memorize the training images.",
)
def section(run: RecordedRun) -> tuple[Curves, ...]:
    if not run.history:
        raise LeftOut("Left out: no epoch has been finished yet.")
    return (
        _curves("Loss", "loss (mean cross-entropy, nats)", run.history, "loss", 1),
        _curves("Accuracy", "accuracy (%)", run.history, "accuracy", 100),
    )


def _curves(title: str, y_label: str, history: tuple[EpochRecord, ...], metric: str, factor: int) -> Curves:
    epochs = tuple(float(record.epoch) for record in history)
    notes = tuple(count_text(record.examples_seen) for record in history)
    lines = []
    for split in ("train", "validation"):
        values = [getattr(record, f"{split}_{metric}") for record in history]
        y = tuple(None if value is None else factor * value for value in values)
        if any(value is not None for value in values):
            lines.append(Line(split, epochs, y, notes))
    return Curves(title, "epoch", y_label, tuple(lines), note_label="examples seen")

"""The display of a run in progress: loss, accuracy, speed, memory and remaining time."""

import math
import time

from convscope.device import memory_in_use_bytes, peak_memory_bytes
from convscope.progress import Progress
from convscope.results.run import EpochRecord
from convscope.training.state import Session

EXPECTATION_SECONDS, EXPECTATION_SHARE = 3.0, 0.1
"""The time of the whole run is estimated after this time or this share of the steps."""


def count_time(session: Session) -> None:
    """Add the time since the last call to that of the run and the epoch."""
    now = time.perf_counter()
    session.state.seconds += now - session.clock
    session.state.epoch_seconds += now - session.clock
    session.clock = now


def note_peak(session: Session, stage: str) -> None:
    """Record the peak memory when a stage ends for the first time."""
    session.peaks.setdefault(stage, peak_memory_bytes(session.device))


def estimate_seconds(session: Session) -> None:
    """Estimate the time of the run once, from its first steps; validating an image takes a third of training on it."""
    state, data = session.state, session.data
    enough = state.seconds >= EXPECTATION_SECONDS or state.step >= session.steps * EXPECTATION_SHARE
    if session.expected_seconds is None and enough and not state.epochs_before:
        validating = 0 if data.validation is None or state.epoch > 1 else len(data.validation) / len(data.train) / 3
        session.expected_seconds = state.seconds / state.step * session.steps * (1 + validating)


def show(session: Session, record: EpochRecord | None = None) -> None:
    """Report progress, with the figures of `record` if an epoch has ended."""
    state, config = session.state, session.config
    last = record or (state.history[-1] if state.history else None)
    planned = "" if session.planned_bytes is None else f" of {session.planned_bytes / 2**20:,.0f}"
    values = {
        "loss": f"{state.loss_sum / (state.weight_sum or 1):.4f}",
        "accuracy": f"{state.correct / max(1, state.seen):.2%}",
        "validation": f"{last.validation_accuracy:.2%}" if last and last.validation_accuracy is not None else "-",
        "images/s": f"{state.step * config.batch_size / max(state.seconds, 1e-9):,.0f}",
        "memory": f"{memory_in_use_bytes(session.device) / 2**20:,.0f}{planned} MiB",
        "left": f"{state.seconds / max(1, state.step) * (session.steps - state.step):,.0f} s",
    }
    stage = f"epoch {state.epoch}/{config.epochs}"
    session.on_progress(Progress(stage, state.seen, len(session.data.train), "images", values))


def micro_batches_text(session: Session) -> str:
    """Return a description of the micro-batches."""
    batch_size, number = session.config.batch_size, session.state.micro_batches
    norms = ", but batch norm sees one micro-batch at a time" if session.least_micro_batch > 1 else ""
    return (
        f"each batch of {batch_size} goes through the network in {number} micro-batches of "
        f"{math.ceil(batch_size / number)}; the gradient is that of the whole batch{norms}"
    )

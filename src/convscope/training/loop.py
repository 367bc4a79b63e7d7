"""The training loop, written out.

A step is: read a batch, forward, loss, backward, and every `accumulate` batches a change of the weights. Everything
random is keyed by (seed, epoch or step, picture), so the state to save is the weights, the optimizer's slots and a
handful of counters; a run continued from them is bit-identical to one that never stopped, on the same machine with
the same number of threads.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from convscope.config import TrainConfig
from convscope.data.batches import Preprocessing, Resident, training_batches
from convscope.device import (
    has_idle_processor,
    memory_in_use_bytes,
    out_of_memory,
    peak_memory_bytes,
    seed_generator,
)
from convscope.errors import Interrupted, TrainingError, UsageError
from convscope.evaluation.predict import mean_loss_and_accuracy
from convscope.models.segments import checkpoint_activations
from convscope.models.tensor_stream import read_into, stream_tensors
from convscope.progress import OnProgress, Progress
from convscope.randomness import derive_seed
from convscope.results import EpochRecord
from convscope.runs import Checkpoint, load_checkpoint, save_checkpoint, write_history
from convscope.training.optimizers import Optimizer
from convscope.training.plan import EVALUATION, TRAINING
from convscope.training.schedules import SCHEDULES
from convscope.training.step import Step, make_step

EXPECTATION_SECONDS, EXPECTATION_SHARE = 3.0, 0.1
"""After so much time, or such a part of the steps, the time of the whole run is estimated."""
WINDOW_SECONDS = 0.2
"""Losses are read back from the device, checked and shown this often; to read each one costs time."""


@dataclass(frozen=True)
class TrainingData:
    """What training may look at.

    Args:
        ids: names of the pictures of `train`, for messages.
        class_weights: K numbers, how much a picture of each class counts in the training loss; None: all the same.
        num_classes: K; only mixup needs it.
    """

    train: Resident
    validation: Resident | None
    preprocessing: Preprocessing
    ids: tuple[str, ...]
    class_weights: Sequence[float] | None = None
    num_classes: int | None = None


@dataclass
class LoopState:
    """The counters of a run in progress; with weights and optimizer slots they are all there is to save.

    Args:
        epoch: the epoch being trained, from 1.
        batch: batches of this epoch that are done.
        step: batches done in all.
        loss_sum, correct, seen: running sums over this epoch.
        epochs_before: epochs that were done before this loop began, by a head fitted on frozen features.
        best_step: the checkpoint that holds the best weights so far, None before the first epoch's end.
        best_epoch: that of the highest validation accuracy, of the same ones that of the lowest loss; the last one
            without a validation part.
        parts: a batch goes through the network in so many parts; more than the configuration says after memory ran out.
        seconds, epoch_seconds: time spent so far, over all sittings, in the run and in this epoch.
        finished: nothing is left to train.
    """

    epoch: int = 1
    batch: int = 0
    step: int = 0
    epochs_before: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    seen: int = 0
    best_step: int | None = None
    best_epoch: int | None = None
    epochs_since_best: int = 0
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    parts: int = 1
    finished: bool = False
    history: tuple[EpochRecord, ...] = ()


@dataclass(frozen=True)
class TrainResult:
    """How training ended; the model holds the best weights.

    Args:
        train_seconds: time in training and validation over all sittings.
        notes: broken checkpoints that were passed over and memory that ran out, one line each.
        peaks: stage -> most memory of the process up to its first end, in bytes.
        expected_seconds: `train_seconds` as the first steps let expect; None where there were too few.
    """

    history: tuple[EpochRecord, ...]
    best_epoch: int
    train_seconds: float
    notes: tuple[str, ...] = ()
    peaks: Mapping[str, int] = field(default_factory=dict)
    expected_seconds: float | None = None


@dataclass
class _Session:
    """One sitting of a run: the objects that the functions below work on."""

    model: nn.Module
    arithmetic: Step
    data: TrainingData
    config: TrainConfig
    run: Path
    on_progress: OnProgress
    state: LoopState
    step_seed: int
    clock: float
    saved_at: float
    planned_bytes: int | None
    peaks: dict[str, int] = field(default_factory=dict)
    expected_seconds: float | None = None

    @property
    def device(self) -> torch.device:
        return self.data.train.labels.device

    @property
    def optimizer(self) -> Optimizer:
        return self.arithmetic.optimizer

    @property
    def steps(self) -> int:
        """All steps of this loop, from its first epoch to its last."""
        return (self.config.epochs - self.state.epochs_before) * self.batches_per_epoch

    @cached_property
    def batches_per_epoch(self) -> int:
        return math.ceil(len(self.data.train) / self.config.batch_size)


@dataclass(frozen=True)
class _Batch:
    """What is kept of a batch until its loss is read back."""

    loss: Tensor
    logits: Tensor
    labels: Tensor
    numbers: NDArray[np.int64]


def train(
    model: nn.Module,
    data: TrainingData,
    config: TrainConfig,
    run: Path,
    *,
    on_progress: OnProgress,
    stop_requested: Callable[[], bool] = lambda: False,
    resume: bool = False,
    before: EpochRecord | None = None,
    planned_bytes: int | None = None,
) -> TrainResult:
    """Train the model in place and leave its best weights in it.

    Args:
        model: on the device of the data.
        run: run folder, locked by the caller; takes checkpoints and history.jsonl.
        stop_requested: asked after every batch; True saves the state and ends with Interrupted.
        resume: continue from the newest whole checkpoint of the run, if it has one.
        before: how the model did when it came here, where a fitted head stands for the first epochs.
        planned_bytes: the most memory that the plan of the run expects, to be shown beside what is in use.

    Raises:
        TrainingError: the loss is not a number; names step, learning rate and pictures.
        Interrupted: a stop was requested; the state is saved.
        RunError: the run folder could not be written.
    """
    if config.patience is not None and data.validation is None:
        raise UsageError("patience needs a validation part to watch; give it a share with --split, for example 80/20/0")
    device, now = data.train.labels.device, time.perf_counter()
    forward = checkpoint_activations(model, data.train.input_shape) if config.checkpoint_activations else model
    session = _Session(
        model=model,
        arithmetic=make_step(model, forward, config, device, data.class_weights),
        data=data,
        config=config,
        run=run,
        on_progress=on_progress,
        state=LoopState(parts=config.parts),
        step_seed=derive_seed(config.seed, "step"),
        clock=now,
        saved_at=now,
        planned_bytes=planned_bytes,
    )
    notes: list[str] = []
    if resume and any((run / "checkpoints").glob("step-*")):
        checkpoint = load_checkpoint(run)
        notes += checkpoint.warnings
        _restore(session, checkpoint)
    elif before is not None:
        session.state = LoopState(
            parts=config.parts,
            epoch=before.epoch + 1,
            epochs_before=before.epoch,
            best_step=0,
            best_epoch=before.epoch,
            seconds=before.seconds,
            history=(before,),
        )
        _save(session)  # the best so far, to come back to
    while not session.state.finished:
        _train_epoch(session, stop_requested)
        _note_peak(session, TRAINING)
        _end_epoch(session)
    state = session.state
    assert state.best_epoch is not None  # a finished run has at least one epoch
    if state.best_step is not None and state.best_step != state.step:
        read_into(load_checkpoint(run, state.best_step).files["model.safetensors"], model.state_dict())
    if state.parts > config.parts:
        notes.append(f"memory ran out: {_parts_text(session)}")
    return TrainResult(
        state.history, state.best_epoch, state.seconds, tuple(notes), session.peaks, session.expected_seconds
    )


def _train_epoch(session: _Session, stop_requested: Callable[[], bool]) -> None:
    """Train the batches that are left of the current epoch, in smaller parts from where memory runs out."""
    session.model.train()
    while True:
        window: list[_Batch] = []
        try:
            return _train_batches(session, window, stop_requested)
        except (MemoryError, RuntimeError) as error:  # torch's own OutOfMemoryError is a RuntimeError
            if not out_of_memory(error):
                raise
            reason = str(error).partition("\n")[0]
        _halve_parts(session, window, reason)  # here, where the failed step's tensors have gone with its traceback


def _train_batches(session: _Session, window: list[_Batch], stop_requested: Callable[[], bool]) -> None:
    state, config, data = session.state, session.config, session.data
    for x, labels, numbers in training_batches(
        data.train,
        data.preprocessing,
        batch_size=config.batch_size,
        seed=config.seed,
        epoch=state.epoch,
        augment=config.augment,
        num_classes=data.num_classes,
        first_step=state.batch,
        ahead=session.device.type == "cpu" and has_idle_processor(),
    ):
        loss, logits = _train_batch(session, x, labels)
        window.append(_Batch(loss, logits, labels, numbers))
        state.batch += 1
        state.step += 1
        stop = stop_requested()
        boundary = state.batch == session.batches_per_epoch
        if not boundary and state.batch % config.accumulate:
            continue  # a gradient that is half accumulated is not part of the state: nothing is counted or saved
        save = not boundary and (stop or _checkpoint_due(session))
        if boundary or save or time.perf_counter() - session.clock >= WINDOW_SECONDS:
            _read_window(session, window)
            if not boundary:  # the end of the epoch shows itself, with its validation figures
                _expect_seconds(session)
                _show(session)
        if save:
            _save(session)
            if stop:
                raise Interrupted(
                    f"stopped in epoch {state.epoch} after {state.batch} of {session.batches_per_epoch} batches; the "
                    f"state is saved. Go on with: convscope train --resume {session.run}"
                )


def _train_batch(session: _Session, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Train on one batch; return its mean loss and its logits [B, K], still on the device."""
    state, config, arithmetic = session.state, session.config, session.arithmetic
    seed_generator(session.device, (session.step_seed + state.step) % 2**63)
    group_start = state.batch // config.accumulate * config.accumulate
    group_size = min(config.accumulate, session.batches_per_epoch - group_start)  # the last one may be smaller
    if state.parts == 1:
        loss, logits = arithmetic.add_gradients(x, labels, share=1 / group_size)
    else:
        total, parts = arithmetic.weight(labels), []
        number = math.ceil(len(x) / math.ceil(config.batch_size / state.parts))  # the last batch may be smaller
        for part, part_labels in zip(x.tensor_split(number), labels.tensor_split(number), strict=True):
            share = arithmetic.weight(part_labels) / total
            part_loss, part_logits = arithmetic.add_gradients(part, part_labels, share=share / group_size)
            parts.append((part_loss * share, part_logits))
        loss, logits = torch.stack([part[0] for part in parts]).sum(), torch.cat([part[1] for part in parts])
    if state.batch + 1 == group_start + group_size:
        progress = (state.step + 0.5) / session.steps
        session.optimizer.lr = config.lr * SCHEDULES[config.schedule](progress)
        arithmetic.change_weights()
    return loss, logits


def _halve_parts(session: _Session, window: list[_Batch], reason: str) -> None:
    """Go back to the last change of the weights and cut each batch into twice as many parts from there.

    The batches are functions of their number, so those of a half accumulated gradient are simply made again. Running
    statistics of batch norm may have seen part of them twice, and from now on see the smaller parts.

    Raises:
        TrainingError: a single picture is already too much.
    """
    state, config = session.state, session.config
    part_size = math.ceil(config.batch_size / state.parts)
    if part_size == 1:
        raise TrainingError(
            f"memory ran out at step {state.step + 1} (epoch {state.epoch}) with a single picture in the network: "
            f"{reason}. Use a smaller --image-size or a smaller --model, or free memory and go on with: "
            f"convscope train --resume {session.run}"
        )
    session.optimizer.zero_grad()
    undone = state.batch % config.accumulate
    state.batch, state.step = state.batch - undone, state.step - undone
    del window[len(window) - undone :]
    if window:
        _read_window(session, window)
    state.parts *= 2
    if session.device.type == "cuda":
        torch.cuda.empty_cache()
    session.on_progress(Progress(f"memory ran out at step {state.step + 1}: {_parts_text(session)}", 0, None))


def _read_window(session: _Session, window: list[_Batch]) -> None:
    """Add the window's losses and right answers to the epoch's sums, then empty it."""
    state = session.state
    losses = torch.stack([batch.loss for batch in window]).tolist()
    for offset, (loss, batch) in enumerate(zip(losses, window, strict=True)):
        if not math.isfinite(loss):
            _raise_not_finite(session, loss, state.step - len(window) + offset + 1, batch.numbers)
        state.loss_sum += loss * len(batch.numbers)
    logits, labels = torch.cat([batch.logits for batch in window]), torch.cat([batch.labels for batch in window])
    if labels.ndim == 2:  # of a mixture the larger part counts
        labels = labels.argmax(1)
    state.correct += int((logits.argmax(1) == labels).sum())
    state.seen += len(labels)
    window.clear()
    _count_time(session)


def _end_epoch(session: _Session) -> None:
    """Measure on validation data, record the epoch, remember the best, decide whether to go on, and save."""
    state, config, data = session.state, session.config, session.data
    validation_loss, validation_accuracy = None, None
    if data.validation is not None:
        validation_loss, validation_accuracy = mean_loss_and_accuracy(
            session.model, data.validation, data.preprocessing, most_at_once=config.evaluation_batch
        )
        _note_peak(session, EVALUATION)
        if not math.isfinite(validation_loss):
            _raise_not_finite(session, validation_loss, state.step, np.zeros(0, np.int64))
    _count_time(session)
    record = EpochRecord(
        epoch=state.epoch,
        train_loss=state.loss_sum / state.seen,
        train_accuracy=state.correct / state.seen,
        validation_loss=validation_loss,
        validation_accuracy=validation_accuracy,
        lr=session.optimizer.lr,
        examples_seen=state.epoch * len(data.train),
        seconds=state.epoch_seconds,
    )
    state.epochs_since_best += 1
    best = next((record for record in state.history if record.epoch == state.best_epoch), None)
    if best is None or is_better(record, best):
        state.best_step, state.best_epoch, state.epochs_since_best = state.step, state.epoch, 0
    state.history = (*state.history, record)
    out_of_patience = config.patience is not None and state.epochs_since_best >= config.patience
    state.finished = state.epoch == config.epochs or out_of_patience
    _show(session, record)
    state.epoch, state.batch = state.epoch + 1, 0
    state.loss_sum, state.correct, state.seen, state.epoch_seconds = 0.0, 0, 0, 0.0
    _save(session)
    write_history(session.run, state.history)


def is_better(record: EpochRecord, than: EpochRecord) -> bool:
    """Return whether an epoch beats an earlier one: by validation accuracy, between equals by loss.

    Not by loss first: a network that grows sure of itself loses more by its few mistakes while it makes fewer of them.
    Without validation the later one is the better.
    """
    if record.validation_accuracy is None or record.validation_loss is None:
        return True
    assert than.validation_accuracy is not None
    assert than.validation_loss is not None
    ours, theirs = ((r.validation_accuracy, -r.validation_loss) for r in (record, than))  # type: ignore[operator]
    return ours > theirs


def _raise_not_finite(session: _Session, loss: float, step: int, numbers: NDArray[np.int64]) -> NoReturn:
    state = session.state
    pictures = ", ".join(session.data.ids[number] for number in numbers[:5]) or "the validation part"
    more = f" and {len(numbers) - 5} more" if len(numbers) > 5 else ""
    kept = f"; the best weights so far are those of epoch {state.best_epoch}" if state.best_epoch else ""
    raise TrainingError(
        f"the loss is {loss} at step {step} (epoch {state.epoch}), learning rate "
        f"{session.optimizer.lr:.3g}, pictures {pictures}{more}. "
        f"A learning rate of {session.config.lr / 10:.2g} (--lr) is the usual remedy{kept}"
    )


def _parts_text(session: _Session) -> str:
    batch_size, parts = session.config.batch_size, session.state.parts
    return (
        f"each batch of {batch_size} goes through the network in {parts} parts of {math.ceil(batch_size / parts)}; "
        "the gradient is that of the whole batch"
    )


# ---------------------------------------------------------------- state


def _checkpoint_due(session: _Session) -> bool:
    config = session.config
    if config.checkpoint_steps is not None and session.state.step % config.checkpoint_steps == 0:
        return True
    return time.perf_counter() - session.saved_at >= config.checkpoint_seconds


def _save(session: _Session) -> None:
    state = session.state
    keep = () if state.best_step is None else (state.best_step,)
    loop = json.dumps({"state": asdict(state), "scaler": session.arithmetic.scaler.state_dict()}, allow_nan=False)
    save_checkpoint(
        session.run,
        state.step,
        {
            "model.safetensors": stream_tensors(session.model.state_dict()),
            "optimizer.safetensors": stream_tensors(_optimizer_slots(session.optimizer)),
            "loop.json": loop.encode(),
        },
        keep=keep,
    )
    session.saved_at = session.clock = time.perf_counter()  # writing is neither training nor validation


def _restore(session: _Session, checkpoint: Checkpoint) -> None:
    read_into(checkpoint.files["model.safetensors"], session.model.state_dict())
    read_into(checkpoint.files["optimizer.safetensors"], _optimizer_slots(session.optimizer))
    tree = json.loads(checkpoint.files["loop.json"].read_bytes())
    session.arithmetic.scaler.load_state_dict(tree["scaler"])
    history = tuple(EpochRecord(**record) for record in tree["state"].pop("history"))
    session.state = LoopState(**tree["state"], history=history)
    write_history(session.run, history)


def _optimizer_slots(optimizer: Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's own tensors by name."""
    slots = {f"{index}.{slot}": value for slot, values in optimizer.slots.items() for index, value in enumerate(values)}
    return slots | {"steps_done": optimizer.steps_done}


# ---------------------------------------------------------------- time and display


def _count_time(session: _Session) -> None:
    now = time.perf_counter()
    session.state.seconds += now - session.clock
    session.state.epoch_seconds += now - session.clock
    session.clock = now


def _note_peak(session: _Session, stage: str) -> None:
    session.peaks.setdefault(stage, peak_memory_bytes(session.device))


def _expect_seconds(session: _Session) -> None:
    """Once, from the steps so far: to validate a picture costs a third of training on it, the forward pass."""
    state, data = session.state, session.data
    enough = state.seconds >= EXPECTATION_SECONDS or state.step >= session.steps * EXPECTATION_SHARE
    if session.expected_seconds is None and enough and not state.epochs_before:
        to_come = 0 if data.validation is None or state.epoch > 1 else len(data.validation) / len(data.train) / 3
        session.expected_seconds = state.seconds / state.step * session.steps * (1 + to_come)


def _show(session: _Session, record: EpochRecord | None = None) -> None:
    """Report progress; with a record, that of an epoch which has ended."""
    state, config = session.state, session.config
    last = record or (state.history[-1] if state.history else None)
    steps_left = session.steps - state.step
    planned = "" if session.planned_bytes is None else f" of {session.planned_bytes / 2**20:,.0f}"
    values = {
        "loss": f"{state.loss_sum / max(1, state.seen):.4f}",
        "accuracy": f"{state.correct / max(1, state.seen):.2%}",
        "validation": f"{last.validation_accuracy:.2%}" if last and last.validation_accuracy is not None else "-",
        "images/s": f"{state.step * config.batch_size / max(state.seconds, 1e-9):,.0f}",
        "memory": f"{memory_in_use_bytes(session.device) / 2**20:,.0f}{planned} MiB",
        "left": f"{state.seconds / max(1, state.step) * steps_left:,.0f} s",
    }
    stage = f"epoch {state.epoch}/{config.epochs}"
    session.on_progress(Progress(stage, state.seen, len(session.data.train), "images", values))

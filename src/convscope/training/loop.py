"""The training loop.

For each batch: forward, loss, backward, and every `accumulate` batches an optimizer step. Random numbers depend only on
(seed, epoch or step, image), so a checkpoint needs only the weights, the optimizer's state and a few counters. On the
same machine with the same number of threads, a resumed run is bit-identical to one that never stopped.
"""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from convscope.config import DEFAULT_COMPUTE, ComputeConfig, TrainConfig
from convscope.data.batches import training_batches
from convscope.device import has_idle_processor, out_of_memory, seed_generator
from convscope.errors import Interrupted, TrainingError, UsageError, command
from convscope.evaluation.predict import mean_loss_and_accuracy
from convscope.models.surgery.segments import checkpoint_activations
from convscope.progress import OnProgress, Progress
from convscope.results.memory import EVALUATION, TRAINING
from convscope.results.run import EpochRecord
from convscope.storage.checkpoints import load_checkpoint
from convscope.storage.run_folder import write_history
from convscope.storage.tensors import read_into
from convscope.training.display import count_time, estimate_seconds, micro_batches_text, note_peak, show
from convscope.training.interrupts import stop_on_signals
from convscope.training.schedules import SCHEDULES
from convscope.training.state import LoopState, Session, TrainingData, checkpoint_due, restore_state, save_state
from convscope.training.step import make_step

WINDOW_SECONDS = 0.2
"""Time between reads of the losses from the device, which are then checked and shown; each read costs time."""


@dataclass(frozen=True)
class TrainResult:
    """How training ended; the model holds the best weights.

    Args:
        train_seconds: time in training and validation over all sessions.
        notes: damaged checkpoints that were skipped and memory that ran out, one line each.
        peaks: stage -> peak memory of the process when the stage first ended, in bytes.
        expected_seconds: `train_seconds` as estimated from the first steps; None if there were too few.
    """

    history: tuple[EpochRecord, ...]
    best_epoch: int
    train_seconds: float
    notes: tuple[str, ...] = ()
    peaks: Mapping[str, int] = field(default_factory=dict)
    expected_seconds: float | None = None


@dataclass(frozen=True)
class _Batch:
    """The results of a batch until its loss is read; `numbers` are the indices of its images."""

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
    compute: ComputeConfig = DEFAULT_COMPUTE,
    on_progress: OnProgress,
    stop_requested: Callable[[], bool] | None = None,
    resume: bool = False,
    before: EpochRecord | None = None,
    planned_bytes: int | None = None,
) -> TrainResult:
    """Train the model in place and leave its best weights in it.

    Args:
        model: on the device of the data.
        run: run folder for checkpoints and history.jsonl, locked by the caller.
        stop_requested: asked at every change of weights, batch of validation and end of an epoch; if it returns True,
            the state is saved and Interrupted raised. None is whether Ctrl-C or SIGTERM came.
        resume: continue from the newest intact checkpoint of the run, if it has one.
        before: the record of a head that was fitted in place of the first epochs.
        planned_bytes: the peak memory of the plan, shown beside the memory in use.

    Raises:
        TrainingError: the loss is not finite; names step, learning rate and images.
        Interrupted: a stop was requested; the state is saved.
        RunError: the run folder could not be written.
    """
    if config.patience is not None and data.validation is None:
        raise UsageError("patience needs a validation split; give it a share with --split, for example 80/20/0")
    forward = checkpoint_activations(model, data.train.input_shape) if compute.checkpoint_activations else model
    arithmetic = make_step(model, forward, config, compute.precision, data.train.labels.device, data.class_weights)
    state = LoopState(micro_batches=compute.micro_batches)
    session = Session(model, arithmetic, data, config, compute, run, on_progress, state, planned_bytes)
    notes = _begin(session, before, resume=resume)
    with stop_on_signals() if stop_requested is None else nullcontext(stop_requested) as asked_to_stop:
        while not session.state.finished:
            _train_epoch(session, asked_to_stop)
            note_peak(session, TRAINING)
            _end_epoch(session, asked_to_stop)
    return _finish(session, notes)


def _begin(session: Session, before: EpochRecord | None, *, resume: bool) -> tuple[str, ...]:
    """Restore a checkpoint or start after a fitted head; return notes on damaged checkpoints."""
    if resume and any((session.run / "checkpoints").glob("step-*")):
        checkpoint = load_checkpoint(session.run)
        restore_state(session, checkpoint)
        return checkpoint.warnings
    if before is not None:
        session.state = LoopState(
            micro_batches=session.compute.micro_batches,
            epoch=before.epoch + 1,
            epochs_before=before.epoch,
            best_step=0,
            best_epoch=before.epoch,
            seconds=before.seconds,
            history=(before,),
        )
        save_state(session)  # the best weights so far
    return ()


def _finish(session: Session, notes: tuple[str, ...]) -> TrainResult:
    """Restore the best weights and return how training went."""
    state = session.state
    assert state.best_epoch is not None  # a finished run has at least one epoch
    if state.best_step is not None and state.best_step != state.step:
        best = load_checkpoint(session.run, state.best_step)
        read_into(best.files["model.safetensors"], session.model.state_dict())
    if state.micro_batches > session.compute.micro_batches:
        notes = (*notes, f"memory ran out: {micro_batches_text(session)}")
    return TrainResult(state.history, state.best_epoch, state.seconds, notes, session.peaks, session.expected_seconds)


# ---------------------------------------------------------------- one epoch


def _train_epoch(session: Session, stop_requested: Callable[[], bool]) -> None:
    """Train the remaining batches of the current epoch; use smaller micro-batches when memory runs out."""
    session.model.train()
    while True:
        window: list[_Batch] = []
        try:
            return _train_batches(session, window, stop_requested)
        except (MemoryError, RuntimeError) as error:  # torch's own OutOfMemoryError is a RuntimeError
            if not out_of_memory(error):
                raise
            reason = str(error).partition("\n")[0]
        _halve_micro_batches(session, window, reason)  # out here the failed step's tensors are freed


def _train_batches(session: Session, window: list[_Batch], stop_requested: Callable[[], bool]) -> None:
    state, config, data = session.state, session.config, session.data
    for x, labels, numbers in training_batches(
        data.train,
        data.preprocessing,
        config,
        epoch=state.epoch,
        num_classes=data.num_classes,
        first_step=state.batch,
        ahead=session.device.type == "cpu" and has_idle_processor(),
    ):
        loss, logits = _train_batch(session, x, labels)
        window.append(_Batch(loss, logits, labels, numbers))
        state.batch += 1
        state.step += 1
        boundary = state.batch == session.batches_per_epoch
        if not boundary and state.batch % config.accumulate:
            continue  # checkpoints hold no gradients: nothing is counted or saved between optimizer steps
        stop = stop_requested()
        save = stop or (not boundary and checkpoint_due(session))
        if boundary or save or time.perf_counter() - session.clock >= WINDOW_SECONDS:
            _read_window(session, window)
            if not boundary:  # `_end_epoch` shows the last window, with the validation figures
                estimate_seconds(session)
                show(session)
        if save:
            save_state(session)
        if stop:
            raise _stopped(session)


def _stopped(session: Session) -> Interrupted:
    """Return the error for a stop after the state was saved."""
    state = session.state
    within = f"in epoch {state.epoch} after {state.batch} of {session.batches_per_epoch} batches"
    place = within if state.batch else f"after epoch {state.epoch - 1}"
    resume = command("train", "--resume", session.run)
    return Interrupted(f"stopped {place}; the state is saved. Go on with: {resume}")


def _train_batch(session: Session, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Train on one batch; return its mean loss and its logits [B, K] on the device."""
    state, config, arithmetic = session.state, session.config, session.arithmetic
    seed_generator(session.device, (session.step_seed + state.step) % 2**63)
    number, share, scale = session.micro_batches_of(len(x)), 1.0, 1.0
    if config.accumulate > 1:  # each image weighs as in one batch of all; what all weigh is known after the last one
        weight, full = arithmetic.weight(labels), config.accumulate * config.batch_size
        session.group_weight += weight
        share, scale = weight / full, full / session.group_weight
    if number == 1:
        loss, logits = arithmetic.add_gradients(x, labels, share=share)
    else:
        loss, logits = _add_micro_batches(session, x, labels, number, share)
    if state.batch + 1 == session.batches_per_epoch or (state.batch + 1) % config.accumulate == 0:
        session.optimizer.lr = _lr_of_batch(session, state.batch)
        arithmetic.change_weights(scale=scale)
        session.group_weight = 0.0
    return loss, logits


def _lr_of_batch(session: Session, batch: int) -> float:
    """Return the learning rate of a batch of this epoch, counted from 0."""
    return session.config.lr * SCHEDULES[session.config.schedule](session.progress_at(batch))


def _add_micro_batches(
    session: Session, x: Tensor, labels: Tensor, number: int, share_of_batch: float
) -> tuple[Tensor, Tensor]:
    """Add the gradient of a batch in micro-batches; return values as of `_train_batch`."""
    arithmetic = session.arithmetic
    total, losses, logits = arithmetic.weight(labels), list[Tensor](), list[Tensor]()
    for micro_x, micro_labels in zip(x.tensor_split(number), labels.tensor_split(number), strict=True):
        share = arithmetic.weight(micro_labels) / total
        loss, found = arithmetic.add_gradients(micro_x, micro_labels, share=share * share_of_batch)
        losses.append(loss * share)
        logits.append(found)
    return torch.stack(losses).sum(), torch.cat(logits)


def _halve_micro_batches(session: Session, window: list[_Batch], reason: str) -> None:
    """Go back to the last optimizer step and double the number of micro-batches.

    The batches since then are made again from their numbers. Running statistics of batch norm may see some of them
    twice, and see smaller micro-batches from now on.

    Raises:
        TrainingError: memory runs out even with a single image, or two where the network normalizes over a batch.
    """
    state, config = session.state, session.config
    if math.ceil(config.batch_size / state.micro_batches) <= session.least_micro_batch:
        images = "a single image" if session.micro_batch_size == 1 else f"{session.micro_batch_size} images"
        raise TrainingError(
            f"memory ran out at step {state.step + 1} (epoch {state.epoch}) with {images} in the network: "
            f"{reason}. Use a smaller --image-size or --model, or free memory and continue with: "
            f"{command('train', '--resume', session.run)}"
        )
    session.optimizer.zero_grad()
    session.group_weight = 0.0
    undone = state.batch % config.accumulate
    state.batch, state.step = state.batch - undone, state.step - undone
    del window[len(window) - undone :]
    if window:
        _read_window(session, window)
    state.micro_batches *= 2
    if session.device.type == "cuda":
        torch.cuda.empty_cache()
    session.on_progress(Progress(f"memory ran out at step {state.step + 1}: {micro_batches_text(session)}", 0, None))


def _read_window(session: Session, window: list[_Batch]) -> None:
    """Add the window's losses, each of the weight of its images, and correct predictions to the sums; empty it."""
    state = session.state
    losses = torch.stack([batch.loss for batch in window]).tolist()
    for offset, (loss, batch) in enumerate(zip(losses, window, strict=True)):
        if not math.isfinite(loss):
            _raise_not_finite(session, loss, state.step - len(window) + offset + 1, batch.numbers)
        weight = session.arithmetic.weight(batch.labels)
        state.loss_sum += loss * weight
        state.weight_sum += weight
    logits, labels = torch.cat([batch.logits for batch in window]), torch.cat([batch.labels for batch in window])
    if labels.ndim == 2:  # mixed images count as their larger class
        labels = labels.argmax(1)
    state.correct += int((logits.argmax(1) == labels).sum())
    state.seen += len(labels)
    window.clear()
    count_time(session)


def _end_epoch(session: Session, stop_requested: Callable[[], bool]) -> None:
    """Validate, record the epoch, update the best one, decide whether to continue, and save.

    A stop during validation saves the state as it was before, and a resumed run validates again.
    """

    def stop_if_asked() -> None:
        if stop_requested():
            save_state(session)
            raise _stopped(session)

    state, config, data = session.state, session.config, session.data
    validation_loss, validation_accuracy = None, None
    if data.validation is not None:
        most_at_once = session.compute.evaluation_batch_size
        validation_loss, validation_accuracy = mean_loss_and_accuracy(
            session.model, data.validation, data.preprocessing, most_at_once=most_at_once, after_batch=stop_if_asked
        )
        note_peak(session, EVALUATION)
        if not math.isfinite(validation_loss):
            _raise_not_finite(session, validation_loss, state.step, np.zeros(0, np.int64))
    count_time(session)
    record = EpochRecord(
        epoch=state.epoch,
        train_loss=state.loss_sum / state.weight_sum,
        train_accuracy=state.correct / state.seen,
        validation_loss=validation_loss,
        validation_accuracy=validation_accuracy,
        lr=_lr_of_batch(session, state.batch - 1),  # a run resumed before its validation has not set the optimizer's
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
    show(session, record)
    state.epoch, state.batch = state.epoch + 1, 0
    state.loss_sum, state.weight_sum, state.correct, state.seen, state.epoch_seconds = 0.0, 0.0, 0, 0, 0.0
    save_state(session)
    write_history(session.run, state.history)
    if stop_requested():
        raise _stopped(session)


def is_better(record: EpochRecord, than: EpochRecord) -> bool:
    """Return whether an epoch is better than an earlier one: by validation accuracy, then by validation loss.

    Loss does not come first: as a network grows confident, its few mistakes cost more even while it makes fewer.
    Without a validation split the later epoch is better.
    """
    if record.validation_accuracy is None or record.validation_loss is None:
        return True
    assert than.validation_accuracy is not None
    assert than.validation_loss is not None
    ours, theirs = ((r.validation_accuracy, -r.validation_loss) for r in (record, than))  # type: ignore[operator]
    return ours > theirs


def _raise_not_finite(session: Session, loss: float, step: int, numbers: NDArray[np.int64]) -> NoReturn:
    state = session.state
    images = ", ".join(session.data.ids[number] for number in numbers[:5]) or "the validation split"
    more = f" and {len(numbers) - 5} more" if len(numbers) > 5 else ""
    best = f"; the best weights so far are those of epoch {state.best_epoch}" if state.best_epoch else ""
    raise TrainingError(
        f"the loss is {loss} at step {step} (epoch {state.epoch}), learning rate "
        f"{session.optimizer.lr:.3g}, images {images}{more}. "
        f"Try a lower learning rate, for example --lr {session.config.lr / 10:.2g}{best}"
    )

"""The state of a run in progress, saved to a checkpoint and restored from one."""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from convscope.config import ComputeConfig, TrainConfig
from convscope.data.batches import Preprocessing, Resident, largest_batches, num_batches, num_micro_batches
from convscope.errors import CheckpointError
from convscope.models.eval_mode import batch_norms
from convscope.progress import OnProgress
from convscope.results.run import EpochRecord
from convscope.schema import checked
from convscope.seeds import derive_seed
from convscope.storage.checkpoints import Checkpoint, save_checkpoint
from convscope.storage.files import parse_json, read_limited
from convscope.storage.run_folder import write_history
from convscope.storage.tensors import read_into, stream_tensors
from convscope.training.optimizers import Optimizer
from convscope.training.step import Step


@dataclass(frozen=True)
class TrainingData:
    """The data that training may see.

    Args:
        ids: names of the training images, for messages.
        class_weights: K weights of the classes in the training loss; None weights all the same.
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
    """The counters of a run in progress; a checkpoint holds them, the weights and the optimizer's state.

    Args:
        epoch: the current epoch, from 1.
        batch, step: finished batches, in this epoch and in all.
        loss_sum, weight_sum: running sums over this epoch of the losses and the weights of its images.
        correct, seen: running numbers of correct predictions and of images in this epoch.
        epochs_before: epochs before this loop, in which a head was fitted on frozen features.
        best_step: the checkpoint with the best weights so far, None before the end of the first epoch.
        best_epoch: see `loop.is_better`.
        micro_batches: of each batch; more than configured after memory ran out.
        seconds, epoch_seconds: time over all sessions, in the run and in this epoch.
    """

    epoch: int = 1
    batch: int = 0
    step: int = 0
    epochs_before: int = 0
    loss_sum: float = 0.0
    weight_sum: float = 0.0
    correct: int = 0
    seen: int = 0
    best_step: int | None = None
    best_epoch: int | None = None
    epochs_since_best: int = 0
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    micro_batches: int = 1
    finished: bool = False
    history: tuple[EpochRecord, ...] = ()


@dataclass
class Session:
    """One session of a run: the objects that the loop works on.

    Args:
        run, planned_bytes: see `loop.train`.
        group_weight: of the images since the last optimizer step, with gradients accumulated over several batches.
        clock, saved_at: when time was last counted and a checkpoint last written, in seconds of `perf_counter`.
        peaks, expected_seconds: see `loop.TrainResult`.
    """

    model: nn.Module
    arithmetic: Step
    data: TrainingData
    config: TrainConfig
    compute: ComputeConfig
    run: Path
    on_progress: OnProgress
    state: LoopState
    planned_bytes: int | None
    group_weight: float = 0.0
    clock: float = field(default_factory=time.perf_counter)
    saved_at: float = field(default_factory=time.perf_counter)
    peaks: dict[str, int] = field(default_factory=dict)
    expected_seconds: float | None = None

    @property
    def device(self) -> torch.device:
        """The device of the network and the data."""
        return self.data.train.labels.device

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer of the step."""
        return self.arithmetic.optimizer

    @property
    def steps(self) -> int:
        """All batches of this loop, from its first epoch to its last."""
        return (self.config.epochs - self.state.epochs_before) * self.batches_per_epoch

    @cached_property
    def step_seed(self) -> int:
        """Seed of the random layers in the first step; later steps count up from it."""
        return derive_seed(self.config.seed, "step")

    @cached_property
    def batches_per_epoch(self) -> int:
        """Batches per epoch, including the last one, which may have another size."""
        return num_batches(len(self.data.train), self.config.batch_size)

    @cached_property
    def least_micro_batch(self) -> int:
        """Images in the smallest micro-batch; asked once the network is in the mode that it is trained in."""
        return 2 if any(norm.training for norm in batch_norms(self.model)) else 1

    def progress_at(self, batch: int) -> float:
        """Return the share of the optimizer steps up to the middle of that of a batch of this epoch, 0..1."""
        state, accumulate = self.state, self.config.accumulate
        an_epoch = math.ceil(self.batches_per_epoch / accumulate)
        epochs = self.config.epochs - state.epochs_before
        done = (state.epoch - 1 - state.epochs_before) * an_epoch + batch // accumulate
        return (done + 0.5) / (epochs * an_epoch)

    def micro_batches_of(self, num_images: int) -> int:
        """Return into how many micro-batches a batch of this size is split."""
        size, micro_batches = self.config.batch_size, self.state.micro_batches
        return num_micro_batches(num_images, size, micro_batches, least=self.least_micro_batch)

    @property
    def micro_batch_size(self) -> int:
        """Images in the largest micro-batch."""
        sizes = largest_batches(len(self.data.train), self.config.batch_size)
        return max(math.ceil(size / self.micro_batches_of(size)) for size in sizes)


def checkpoint_due(session: Session) -> bool:
    """Return whether a checkpoint within the epoch is due."""
    compute = session.compute
    if compute.checkpoint_steps is not None and session.state.step % compute.checkpoint_steps == 0:
        return True
    return time.perf_counter() - session.saved_at >= compute.checkpoint_seconds


def save_state(session: Session) -> None:
    """Save weights, optimizer and counters as a checkpoint of this step.

    Raises:
        RunError: the run folder cannot be written.
    """
    state = session.state
    loop = json.dumps({"state": asdict(state), "scaler": session.arithmetic.scaler.state_dict()}, allow_nan=False)
    save_checkpoint(
        session.run,
        state.step,
        {
            "model.safetensors": stream_tensors(session.model.state_dict()),
            "optimizer.safetensors": stream_tensors(_optimizer_slots(session.optimizer)),
            "loop.json": loop.encode(),
        },
        keep=() if state.best_step is None else (state.best_step,),
    )
    session.saved_at = session.clock = time.perf_counter()  # writing counts as neither training nor validation


def restore_state(session: Session, checkpoint: Checkpoint) -> None:
    """Restore weights, optimizer and counters as `save_state` saved them.

    Raises:
        CheckpointError: the checkpoint is whole but holds something else.
    """
    try:
        read_into(checkpoint.files["model.safetensors"], session.model.state_dict())
        read_into(checkpoint.files["optimizer.safetensors"], _optimizer_slots(session.optimizer))
        tree = parse_json(read_limited(checkpoint.files["loop.json"]))
        session.arithmetic.scaler.load_state_dict(tree["scaler"])
        counted = {"weight_sum": tree["state"]["seen"]}  # a checkpoint without a sum of weights counted images
        session.state = checked(counted | tree["state"], LoopState, "loop.json: state")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        place = session.run / "checkpoints" / f"step-{checkpoint.step}"
        raise CheckpointError(f"{place} is not of this run ({error}); start the run again with a new --out") from error
    write_history(session.run, session.state.history)


def _optimizer_slots(optimizer: Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's own tensors by name."""
    slots = {f"{index}.{slot}": value for slot, values in optimizer.slots.items() for index, value in enumerate(values)}
    return slots | {"steps_done": optimizer.steps_done}

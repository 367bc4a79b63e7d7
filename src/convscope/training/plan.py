"""How a run is made to fit into memory: what each of its stages takes, and the first remedy with which all of them fit.

All figures are of the whole process, as the system counts them: resident memory on a CPU, torch's allocator on a GPU.
What is there before training is measured; the rest is predicted from what the operations allocate, and a reserve is
kept for what no prediction knows: the libraries' own scratch space and the gaps between pieces of memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import nn

from convscope.budget.memory import (
    COMPUTED,
    cut_into_segments,
    has_content,
    optimizer_bytes,
    predict_inference_bytes,
    predict_maps_bytes,
    predict_step,
    to_trace,
)
from convscope.config import TrainConfig
from convscope.data.batches import chunk_pictures
from convscope.errors import UsageError
from convscope.evaluation.predict import evaluation_batch_size
from convscope.sizes import size_text
from convscope.training.features import BATCH_SIZE as FEATURES_BATCH

READING, TRAINING, EVALUATION, FEATURES, HEAD = "data", "training", "evaluation", "features", "head"
MODEL_FILE, REPORT = "model file", "report"

LIBRARY_BYTES = 48 * 2**20
"""Code and scratch space of the libraries that the first step brings in: oneDNN's kernels, threads, tables."""
END_BYTES = 40 * 2**20
"""What ONNX, ONNX Runtime, calibration and the page bring in at the end."""
RESERVE_SHARE = 0.06
"""Gaps between pieces of memory, as a share of what a stage allocates, where freed memory goes back at once."""
KEPT_SHARE = 0.2
"""The same where the allocator keeps freed memory for the next step, which is faster."""
MODEL_FILE_COPIES = 5
"""So often the weights are in memory, beside the network's own, while model.onnx is made and compared."""

COMPARED_AT_ONCE = 8
"""Pictures that model.onnx classifies at a time to be compared."""

MAX_AUTO_BATCH = 256
MIN_AUTO_STEPS = 32
"""`--batch-size auto` takes no larger batch, and none that leaves fewer steps an epoch: larger ones learn no faster a
step and take fewer steps."""
COMFORTABLE_PART = 8
"""Parts of so many pictures cost hardly more time than a whole batch; smaller ones cost more than checkpoints do."""


class Shells:
    """A network in the forms that are traced, each made once.

    Args:
        network: on the device, as it will be trained.
    """

    def __init__(self, network: nn.Module, input_shape: tuple[int, int, int]) -> None:
        self.network, self.input_shape = network, input_shape

    @cached_property
    def whole(self) -> nn.Module:
        """The network without the numbers in it; with them where it computes with what they are."""
        return to_trace(self.network, self.input_shape)

    @property
    def computed(self) -> bool:
        """Whether what the network takes is known from steps that were really computed."""
        return has_content(self.whole)

    @cached_property
    def is_chain(self) -> bool:
        """Whether the network can be cut into segments that are computed again."""
        try:
            cut_into_segments(self.whole, self.input_shape)
        except UsageError:
            return False
        return True

    @property
    def held_bytes(self) -> int:
        """Bytes of parameters and buffers."""
        return sum(t.nbytes for t in (*self.network.parameters(), *self.network.buffers()))

    def prediction_bytes(self, batch_size: int) -> int:
        """Return what predictions of a batch allocate."""
        return predict_inference_bytes(self.whole, self.input_shape, batch_size)

    @cached_property
    def normalizes_batches(self) -> bool:
        """Whether what becomes of a picture depends on the others of its batch."""
        return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in self.network.modules())


@dataclass(frozen=True)
class Situation:
    """What a plan is made for.

    Args:
        frozen: only a head is fitted on what the network makes of the pictures.
        num_train, num_validation, num_test: pictures of each part.
        resident_bytes, peak_bytes: of the process now, and the most so far.
        keeps_freed_memory: whether the allocator keeps what a step frees for the next step.
    """

    shells: Shells
    num_classes: int
    num_train: int
    num_validation: int
    num_test: int
    config: TrainConfig
    frozen: bool
    device: torch.device
    resident_bytes: int
    peak_bytes: int
    keeps_freed_memory: bool = True

    @property
    def network(self) -> nn.Module:
        """The network itself."""
        return self.shells.network

    @property
    def picture_bytes(self) -> int:
        """Bytes of a picture as it is stored, uint8."""
        return math.prod(self.shells.input_shape)

    @property
    def input_bytes(self) -> int:
        """Bytes of a picture as the network takes it, float32."""
        return 4 * self.picture_bytes

    @property
    def batch_size(self) -> int:
        """Pictures of the largest batch."""
        return min(self.config.batch_size, self.num_train)

    @property
    def all_pictures_bytes(self) -> int:
        """Bytes of the copies that training and the measurements after it make of the pictures."""
        return self.picture_bytes * (self.num_train + self.num_validation + self.num_test)


@dataclass(frozen=True)
class Plan:
    """How a run goes about its memory, and what that takes.

    Args:
        limit_bytes: the most that the process may take; None for no limit.
        config: with batch_size, parts, checkpoint_activations and evaluation_batch as chosen.
        stages: stage -> peak of the process in it; no more than the first, which is over, where nothing was predicted.
        model_file: whether model.onnx is made at the end.
        keeps_freed_memory: whether the allocator keeps what a step frees for the next step.
        why: one line.
    """

    limit_bytes: int | None
    config: TrainConfig
    stages: dict[str, int]
    model_file: bool
    keeps_freed_memory: bool
    why: str

    @property
    def chosen(self) -> bool:
        """Whether there was anything to choose."""
        return self.limit_bytes is not None or self.config.auto_batch

    @property
    def peak_bytes(self) -> int | None:
        """Return the most in any stage; None where nothing was predicted."""
        return max(self.stages.values()) if self.stages.keys() - {READING} else None


def make_plan(
    situation: Situation, *, limit_bytes: int | None, free_bytes: int, auto_batch: bool, short: bool = False
) -> Plan:
    """Return the plan that costs the least time among those that fit.

    Without a limit nothing is changed, but for the batch size where it is to be chosen: that has to fit `free_bytes`.

    Args:
        free_bytes: what the machine, or the device, could still give.
        short: the run is not worth the second or two that a first prediction takes, mostly to import parts of torch;
            nothing is predicted unless something is to be chosen.

    Raises:
        UsageError: nothing fits; names the smallest limit that would work.
    """
    config = situation.config
    if short and limit_bytes is None and not auto_batch:
        why = "no limit was given, so nothing was changed; a run as short as this is not predicted"
        return Plan(None, config, {READING: situation.peak_bytes}, True, True, why)
    if auto_batch:
        plan = _with_largest_batch(situation, limit_bytes, situation.resident_bytes + free_bytes)
    elif limit_bytes is not None:
        plan = _fit(situation, limit_bytes)
    else:
        why = "no limit was given, so nothing was changed"
        plan = Plan(None, config, predict_stages(situation), True, True, why)
    if situation.shells.computed:
        plan = replace(plan, why=f"{plan.why}; {COMPUTED}")
    return plan


# ---------------------------------------------------------------- what the stages take


def predict_stages(situation: Situation) -> dict[str, int]:
    """Return the peak of the process in each stage of a run, in their order."""
    shells = situation.shells
    model_file = MODEL_FILE_COPIES * shells.held_bytes + 2 * shells.prediction_bytes(COMPARED_AT_ONCE) + END_BYTES
    looked_at = 2 * predict_maps_bytes(shells.whole, shells.input_shape) + END_BYTES  # the hooks copy all maps
    at_end = replace(situation, keeps_freed_memory=False)
    return {
        READING: situation.peak_bytes,
        **(_frozen_stages(situation) if situation.frozen else _learning_stages(situation)),
        MODEL_FILE: _in_process(at_end, model_file),
        REPORT: _in_process(at_end, looked_at),
    }


def _learning_stages(situation: Situation) -> dict[str, int]:
    return {TRAINING: _training_bytes(situation), EVALUATION: _evaluation_bytes(situation)}


def _training_bytes(situation: Situation) -> int:
    config, shells, input_bytes = situation.config, situation.shells, situation.input_bytes
    prepared = min(chunk_pictures(input_bytes, config.batch_size), situation.num_train)
    part = math.ceil(situation.batch_size / config.parts)
    if config.parts > 1:
        config = replace(config, accumulate=max(2, config.accumulate))  # the second part finds gradients of the first
    step = predict_step(shells.whole, shells.input_shape, batch_size=part, train=config, prepared=prepared).peak_bytes
    step -= shells.held_bytes  # which is part of what the process takes already
    # meanwhile the next chunk is made: its pictures are gathered and, to be augmented, copied twice
    preparing = prepared * (situation.picture_bytes + input_bytes * (3 if config.augment else 1))
    return _in_process(situation, situation.all_pictures_bytes + preparing + step)


def _evaluation_bytes(situation: Situation) -> int:
    learning = [p for p in situation.network.parameters() if p.requires_grad]
    held = situation.all_pictures_bytes + optimizer_bytes(learning, situation.config)
    pictures = max(situation.num_validation, situation.num_test, 1)
    size = evaluation_batch_size(situation.input_bytes, situation.config.evaluation_batch)
    logits = 3 * 4 * situation.num_classes * pictures
    return _in_process(situation, held + logits + situation.shells.prediction_bytes(min(size, pictures)))


def _frozen_stages(situation: Situation) -> dict[str, int]:
    config = situation.config
    views = config.views if config.augment else 0
    row = 4 * _head_inputs(situation.network)
    features = row * (situation.num_train * (1 + views) + situation.num_validation + situation.num_test)
    through = situation.shells.prediction_bytes(min(FEATURES_BATCH, config.evaluation_batch or FEATURES_BATCH))
    fitted = situation.num_train * max(1, views)
    # the rows are picked, put together and brought to mean 0; logits and probabilities are K numbers each
    fitting = row * (3 * fitted + 2 * situation.num_validation) + 4 * 8 * fitted * situation.num_classes
    return {
        FEATURES: _in_process(situation, features + through),
        HEAD: _in_process(situation, features + fitting),
    } | (_learning_stages(situation) if config.unfreeze_at is not None else {})


def _head_inputs(network: nn.Module) -> int:
    """Return the features that the last dense layer takes, 0 where there is none."""
    return ([module.in_features for module in network.modules() if isinstance(module, nn.Linear)] or [0])[-1]


def _in_process(situation: Situation, num_bytes: int) -> int:
    """Return the process's memory with so many bytes more, and the reserve."""
    share = KEPT_SHARE if situation.keeps_freed_memory else RESERVE_SHARE
    library = LIBRARY_BYTES if situation.device.type == "cpu" else 0
    return situation.resident_bytes + library + int(num_bytes * (1 + share))


# ---------------------------------------------------------------- remedies


def _fit(situation: Situation, limit: int) -> Plan:
    """Return the first plan that fits, in the order of what remedies cost in time."""
    situation, fixed = _with_evaluation_that_fits(situation, limit)
    model_file = fixed[MODEL_FILE] <= limit
    if not model_file:
        del fixed[MODEL_FILE]
    evaluation: dict[bool, int] = {}
    tried: list[Plan] = []
    for kept, config in _remedies(situation):
        stages = fixed
        if TRAINING in fixed:
            changed = replace(situation, config=config, keeps_freed_memory=kept)
            if kept not in evaluation:
                evaluation[kept] = _evaluation_bytes(changed)
            stages = fixed | {TRAINING: _training_bytes(changed), EVALUATION: evaluation[kept]}
        plan = Plan(limit, config, stages, model_file, kept, "")
        if max(stages.values()) <= limit:
            return replace(plan, why=_why(situation, plan))
        tried.append(plan)
    smallest = min(tried, key=lambda plan: max(plan.stages.values()))
    raise UsageError(_too_little(situation, limit, smallest))


def _with_evaluation_that_fits(situation: Situation, limit: int) -> tuple[Situation, dict[str, int]]:
    """Return the situation with the largest batches of the evaluation that fit, if any do, and the stages with them."""
    stages = predict_stages(situation)
    size = evaluation_batch_size(situation.input_bytes, situation.config.evaluation_batch)
    while max(stages.get(FEATURES, 0), stages.get(EVALUATION, 0)) > limit and size > 1:
        size //= 2
        changed = replace(situation.config, evaluation_batch=size)
        situation = replace(situation, config=changed, keeps_freed_memory=False)
        stages |= _frozen_stages(situation) if situation.frozen else {EVALUATION: _evaluation_bytes(situation)}
    return situation, stages


def _remedies(situation: Situation) -> Iterator[tuple[bool, TrainConfig]]:
    """Yield what training may do to take less, in the order of what it costs in time: (freed memory is kept, config).

    Batch norm computes with the pictures of a part instead of those of the batch, which changes the result, so for
    networks that have it checkpoints, which change nothing, come first.
    """
    config, shells = situation.config, situation.shells
    if situation.frozen and config.unfreeze_at is None:
        yield situation.keeps_freed_memory, config
        return
    least = 2 if shells.normalizes_batches else 1
    parts = [config.parts]
    while situation.batch_size // (2 * parts[-1]) >= least:
        parts.append(2 * parts[-1])
    large = [n for n in parts[1:] if situation.batch_size / n >= COMFORTABLE_PART]
    small = [n for n in parts[1:] if n not in large]
    groups = [parts[:1], large, small] if shells.normalizes_batches else [[*parts[:1], *large], small]
    yield from ((True, replace(config, parts=n)) for n in groups[0])
    for group in groups:
        yield from ((False, replace(config, parts=n)) for n in group)
        if not config.checkpoint_activations and not situation.frozen and shells.is_chain:
            yield from ((False, replace(config, parts=n, checkpoint_activations=True)) for n in group)


def _with_largest_batch(situation: Situation, limit: int | None, room: int) -> Plan:
    """Return the plan with the largest batch, a power of two, that fits whole."""
    allowed = room if limit is None else min(limit, room)
    most = max(1, min(MAX_AUTO_BATCH, situation.num_train // MIN_AUTO_STEPS))
    too_large = None
    for power in range(most.bit_length() - 1, -1, -1):
        sized = replace(situation, config=replace(situation.config, batch_size=2**power))
        needed = 0 if situation.frozen and situation.config.unfreeze_at is None else _training_bytes(sized)
        if needed <= allowed:
            break
        too_large = f"{2**power} would take {size_text(needed)} of {size_text(allowed)}"
    plan = _fit(sized, allowed)
    reason = too_large or f"it leaves {MIN_AUTO_STEPS} steps an epoch, and beyond {MAX_AUTO_BATCH} little is gained"
    return replace(plan, limit_bytes=limit, why=f"a batch size of {2**power} was chosen: {reason}; {plan.why}")


# ---------------------------------------------------------------- words


def _why(situation: Situation, plan: Plan) -> str:
    """Return in one line what was changed and why."""
    before, after = situation.config, plan.config
    assert plan.limit_bytes is not None
    changes = []
    if after.checkpoint_activations and not before.checkpoint_activations:
        changes.append("few maps are kept and the others computed again")
    if not plan.keeps_freed_memory:
        changes.append("freed memory goes back to the system at once")
    if after.parts != before.parts:
        size = math.ceil(situation.batch_size / after.parts)
        changes.append(
            f"each batch of {situation.batch_size} goes through the network in {after.parts} parts of {size}"
        )
        if situation.shells.normalizes_batches:
            changes.append("batch norm computes with the pictures of a part")
    if after.evaluation_batch is not None:
        changes.append(f"evaluation takes {after.evaluation_batch} at a time")
    if not plan.model_file:
        changes.append("model.onnx is left out, `convscope export RUN` writes it later")
    peak, limit = size_text(max(plan.stages.values())), size_text(plan.limit_bytes)
    return f"{peak} of {limit} predicted; {', '.join(changes) or 'nothing had to change'}"


def _too_little(situation: Situation, limit: int, smallest: Plan) -> str:
    stage, peak = max(smallest.stages.items(), key=lambda item: item[1])
    needed = math.ceil(peak / 2**20) + 1
    part = math.ceil(situation.batch_size / smallest.config.parts)
    how = f"parts of {part}" + (" and checkpoints" if smallest.config.checkpoint_activations else "")
    ways = "a smaller --image-size, fewer pictures (--per-class) or a smaller --model"
    return (
        f"memory {size_text(limit)} is too little for this run: the smallest that works is --memory {needed}MiB "
        f"(needed for: {stage}; with {how}); or take {ways}, which change the result"
    )

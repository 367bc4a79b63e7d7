"""The planner: it finds the first remedy with which all stages of a run fit into memory.

`train --memory` and `budget --fit` both use it, so they give the same answer.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from convscope.config import ComputeConfig
from convscope.errors import UsageError
from convscope.evaluation.predict import evaluation_batch_size
from convscope.memory.predict import COMPUTED
from convscope.memory.stages import PlanInputs, evaluation_bytes, frozen_stages, predict_stages, training_bytes
from convscope.results.memory import EVALUATION, FEATURES, MODEL_FILE, READING, TRAINING
from convscope.sizes import size_text

MAX_AUTO_BATCH = 256
MIN_AUTO_STEPS = 32
"""`--batch-size auto` chooses no larger batch, and none with fewer steps per epoch: a step with a larger batch learns
little more, and there are fewer steps."""
COMFORTABLE_MICRO_BATCH = 8
"""Micro-batches of this size cost little more time than a whole batch; smaller ones cost more than checkpointing."""


@dataclass(frozen=True)
class Plan:
    """How a run uses memory.

    Args:
        limit_bytes: the most that the process may use; None for no limit.
        compute: with micro_batches, checkpoint_activations and evaluation_batch_size as chosen.
        stages: stage -> peak of the process; only the first stage, which is over, if nothing was predicted.
        model_file: whether model.onnx is written at the end.
        keeps_freed_memory: whether the allocator keeps what a step frees for the next step.
        why: one line.
    """

    limit_bytes: int | None
    batch_size: int
    compute: ComputeConfig
    stages: Mapping[str, int]
    model_file: bool
    keeps_freed_memory: bool
    why: str

    @property
    def peak_bytes(self) -> int | None:
        """The peak over all stages; None if nothing was predicted."""
        return max(self.stages.values()) if self.stages.keys() - {READING} else None


def make_plan(
    inputs: PlanInputs, *, limit_bytes: int | None, free_bytes: int, auto_batch: bool, short: bool = False
) -> Plan:
    """Return the plan that costs the least time among those that fit.

    Without a limit only an automatic batch size is chosen; it has to fit into `free_bytes`.

    Args:
        free_bytes: free memory of the machine or the device.
        short: the run is too short to be worth a prediction, which takes a second or two, mostly to import parts of
            torch; nothing is predicted unless something has to be chosen.

    Raises:
        UsageError: nothing fits; names the smallest limit that would work.
    """
    train, compute = inputs.train, inputs.compute
    if short and limit_bytes is None and not auto_batch:
        why = "no limit was given, so nothing was changed; memory is not predicted for a run this short"
        return Plan(None, train.batch_size, compute, {READING: inputs.peak_bytes}, True, True, why)
    if auto_batch:
        plan = _with_largest_batch(inputs, limit_bytes, inputs.resident_bytes + free_bytes)
    elif limit_bytes is not None:
        plan = _fit(inputs, limit_bytes)
    else:
        why = "no limit was given, so nothing was changed"
        plan = Plan(None, train.batch_size, compute, predict_stages(inputs), True, True, why)
    if inputs.traced.computed:
        plan = replace(plan, why=f"{plan.why}; {COMPUTED}")
    return plan


# ---------------------------------------------------------------- remedies


def _fit(inputs: PlanInputs, limit: int) -> Plan:
    """Return the first plan that fits; remedies that cost less time are tried first."""
    inputs, fixed = _with_evaluation_that_fits(inputs, limit)
    model_file = fixed[MODEL_FILE] <= limit
    if not model_file:
        del fixed[MODEL_FILE]
    evaluation: dict[bool, int] = {}
    tried: list[Plan] = []
    for kept, compute in _remedies(inputs):
        stages = fixed
        if TRAINING in fixed:
            changed = replace(inputs, compute=compute, keeps_freed_memory=kept)
            if kept not in evaluation:
                evaluation[kept] = evaluation_bytes(changed)
            stages = fixed | {TRAINING: training_bytes(changed), EVALUATION: evaluation[kept]}
        plan = Plan(limit, inputs.train.batch_size, compute, stages, model_file, kept, "")
        if max(stages.values()) <= limit:
            return replace(plan, why=_why(inputs, plan))
        tried.append(plan)
    raise UsageError(_too_little(inputs, limit, min(tried, key=lambda plan: max(plan.stages.values()))))


def _with_evaluation_that_fits(inputs: PlanInputs, limit: int) -> tuple[PlanInputs, dict[str, int]]:
    """Return the inputs with the largest evaluation batch that fits, if any does, and the stages with it."""
    stages = predict_stages(inputs)
    size = evaluation_batch_size(inputs.input_bytes, inputs.compute.evaluation_batch_size)
    while max(stages.get(FEATURES, 0), stages.get(EVALUATION, 0)) > limit and size > 1:
        size //= 2
        compute = replace(inputs.compute, evaluation_batch_size=size)
        inputs = replace(inputs, compute=compute, keeps_freed_memory=False)
        stages |= frozen_stages(inputs) if inputs.frozen else {EVALUATION: evaluation_bytes(inputs)}
    return inputs, stages


def _remedies(inputs: PlanInputs) -> Iterator[tuple[bool, ComputeConfig]]:
    """Yield (freed memory is kept, compute) for each way to train in less memory, in the order of their cost in time.

    Batch norm would see the images of a micro-batch instead of the whole batch, which changes the result. Networks that
    have it therefore try activation checkpointing first, which changes nothing.
    """
    compute, traced = inputs.compute, inputs.traced
    if inputs.frozen and inputs.train.unfreeze_at is None:
        yield inputs.keeps_freed_memory, compute
        return
    numbers = [compute.micro_batches]
    while inputs.batch_size // (2 * numbers[-1]) >= traced.least_batch:
        numbers.append(2 * numbers[-1])
    large = [n for n in numbers[1:] if inputs.batch_size / n >= COMFORTABLE_MICRO_BATCH]
    small = [n for n in numbers[1:] if n not in large]
    groups = [numbers[:1], large, small] if traced.normalizes_batches else [[*numbers[:1], *large], small]
    yield from ((True, replace(compute, micro_batches=n)) for n in groups[0])
    for group in groups:
        yield from ((False, replace(compute, micro_batches=n)) for n in group)
        if not compute.checkpoint_activations and not inputs.frozen and traced.is_chain:
            yield from ((False, replace(compute, micro_batches=n, checkpoint_activations=True)) for n in group)


def _with_largest_batch(inputs: PlanInputs, limit: int | None, room: int) -> Plan:
    """Return the plan with the largest batch, a power of two, that fits without micro-batches."""
    allowed = room if limit is None else min(limit, room)
    least = inputs.traced.least_batch
    most = max(least, min(MAX_AUTO_BATCH, inputs.num_train // MIN_AUTO_STEPS))
    too_large = None
    for power in range(most.bit_length() - 1, least.bit_length() - 2, -1):
        sized = replace(inputs, train=replace(inputs.train, batch_size=2**power))
        needed = 0 if inputs.frozen and inputs.train.unfreeze_at is None else training_bytes(sized)
        if needed <= allowed:
            break
        too_large = f"{2**power} would take {size_text(needed)} of {size_text(allowed)}"
    plan = _fit(sized, allowed)
    reason = too_large or f"it keeps {MIN_AUTO_STEPS} steps per epoch, and more than {MAX_AUTO_BATCH} gains little"
    if not too_large and least * MIN_AUTO_STEPS > inputs.num_train:
        reason = f"{inputs.num_train} images are few, and no smaller batch works"
    return replace(plan, limit_bytes=limit, why=f"a batch size of {2**power} was chosen: {reason}; {plan.why}")


# ---------------------------------------------------------------- words


def plan_options(plan: Plan, before: ComputeConfig) -> str:
    """Return the options of `convscope train` that carry out a plan; "" if nothing has to change."""
    after, found = plan.compute, []
    if after.micro_batches != before.micro_batches:
        found.append(f"--micro-batches {after.micro_batches}")
    if after.checkpoint_activations and not before.checkpoint_activations:
        found.append("--checkpoint-activations")
    if after.evaluation_batch_size != before.evaluation_batch_size:
        found.append(f"--evaluation-batch-size {after.evaluation_batch_size}")
    return " ".join(found)


def _why(inputs: PlanInputs, plan: Plan) -> str:
    """Return one line: what was changed and why."""
    before, after = inputs.compute, plan.compute
    assert plan.limit_bytes is not None
    changes = []
    if after.checkpoint_activations and not before.checkpoint_activations:
        changes.append("activations are checkpointed")
    if not plan.keeps_freed_memory:
        changes.append("freed memory is returned to the system at once")
    if after.micro_batches != before.micro_batches:
        number, batch_size = after.micro_batches, inputs.batch_size
        size = math.ceil(batch_size / number)
        changes.append(f"each batch of {batch_size} goes through the network in {number} micro-batches of {size}")
        if inputs.traced.normalizes_batches:
            changes.append("batch norm sees one micro-batch at a time")
    if after.evaluation_batch_size is not None:
        changes.append(f"evaluation uses batches of {after.evaluation_batch_size}")
    if not plan.model_file:
        changes.append("model.onnx is not written (`export` writes it later)")
    peak, limit = size_text(max(plan.stages.values())), size_text(plan.limit_bytes)
    return f"{peak} of {limit} predicted; {', '.join(changes) or 'no change was needed'}"


def _too_little(inputs: PlanInputs, limit: int, smallest: Plan) -> str:
    stage, peak = max(smallest.stages.items(), key=lambda item: item[1])
    needed = math.ceil(peak / 2**20) + 1
    size = math.ceil(inputs.batch_size / smallest.compute.micro_batches)
    checkpoints = " and checkpointed activations" if smallest.compute.checkpoint_activations else ""
    return (
        f"memory {size_text(limit)} is too little for this run: the smallest that works is --memory {needed}MiB "
        f"(needed for: {stage}; with micro-batches of {size}{checkpoints}). "
        "A smaller --image-size, fewer images (--per-class) or a smaller --model also help, but change the result"
    )

"""Activation checkpointing: a network in segments that keep only their input and are run again for the backward pass.

torch.utils.checkpoint does the same; it is left out because its first call imports torch's compiler, which takes three
seconds, and because it moves the running statistics of batch norm twice.

Source: Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016, https://arxiv.org/abs/1604.06174
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from convscope.errors import UsageError
from convscope.models.stages import find_stages

CUTS_TRIED = 48
"""So many sizes of the largest segment are compared."""


@dataclass(frozen=True)
class StageBytes:
    """What a stage holds in a training step, for one picture.

    Args:
        saved: kept for the backward pass beyond its input.
        input: its input.
        cut: whether a segment may begin here; not where the stage changes its input in place.
    """

    saved: float
    input: float
    cut: bool


class Checkpointed(nn.Module):
    """A network as segments. All but the last forget what they computed, and compute it again in the backward pass.

    The modules are the network's own: training this trains the network. Outputs, gradients, random layers and running
    statistics are those of the network.
    """

    def __init__(self, segments: Sequence[nn.Sequential]) -> None:
        super().__init__()
        self.segments = nn.ModuleList(segments)

    def forward(self, x: Tensor) -> Tensor:
        """Return what the network returns."""
        if not torch.is_grad_enabled():
            return _run(self.segments, x)
        anchor = torch.zeros((), requires_grad=True)  # for autograd to come by where the input needs no gradient
        for segment in list(self.segments)[:-1]:
            learns = x.requires_grad or any(p.requires_grad for p in segment.parameters())
            x = _Recomputed.apply(segment, x, anchor) if learns else segment(x)
        return _run(self.segments[-1:], x)


def checkpoint_activations(network: nn.Module, input_shape: Sequence[int]) -> Checkpointed:
    """Return the network cut into segments such that a training step takes the least memory.

    The last segment is kept as it is: it would be computed again at once.

    Args:
        input_shape: of one picture as the network takes it, without the batch axis.

    Raises:
        UsageError: the network is not known to be a chain.
    """
    try:
        found = find_stages(network, tuple(input_shape))  # type: ignore[arg-type]
    except UsageError:
        raise UsageError(
            f"a {type(network).__name__} is not known as a chain of stages, so it cannot be cut into segments that are "
            "computed again; leave out --checkpoint-activations and take a smaller --batch-size with --accumulate"
        ) from None
    stages = [part for _, module in found for part in _flat(module)]
    ends = _best_cuts(stage_bytes(stages, input_shape))
    starts = [0, *ends[:-1]]
    return Checkpointed([nn.Sequential(*stages[a:b]) for a, b in zip(starts, ends, strict=True)])


def stage_bytes(stages: Sequence[nn.Module], input_shape: Sequence[int]) -> list[StageBytes]:
    """Return what each stage holds, counted in a forward pass that leaves no mark on the stages.

    What a stage keeps is let go of when the next one runs: a network is cut up because not all of it fits.
    """
    network = nn.ModuleList(stages)
    device = next(network.parameters()).device
    pictures = 2  # batch norm needs more than one value a channel
    x = torch.zeros(pictures, *input_shape, device=device)
    permanent = {_storage(tensor) for tensor in (*network.parameters(), *network.buffers())}
    seen = {_storage(x)}
    saved, inputs, cuts = [0.0] * len(stages), [0.0] * len(stages), [True] * len(stages)
    for number, stage in enumerate(stages):
        before, version = x, x._version
        inputs[number] = x.nbytes / pictures
        from_before = {_storage(x): number - 1}
        known = permanent | (seen & {_storage(x)})
        alive: list[Tensor] = [x]  # so that no storage takes the place of another

        def pack(
            tensor: Tensor,
            owners: dict[int, int] = from_before,
            known: set[int] = known,
            alive: list[Tensor] = alive,
            number: int = number,
        ) -> None:
            key = _storage(tensor)
            if key not in known:
                known.add(key)
                saved[owners.get(key, number)] += tensor.untyped_storage().nbytes() / pictures
            alive.append(tensor)

        with (
            torch.autograd.graph.saved_tensors_hooks(pack, lambda _: None),  # type: ignore[arg-type,return-value]
            torch.enable_grad(),
            _same_random_state(device),
            _buffers_as_they_are(stage),
        ):
            alive.extend(stage.buffers())
            known.update(map(_storage, stage.buffers()))
            x = stage(x)
        cuts[number] = before._version == version
        seen = known
        alive.clear()  # the graph holds `pack`, which holds what the graph keeps: nobody else would free it
    return [StageBytes(*values) for values in zip(saved, inputs, cuts, strict=True)]


def _best_cuts(stages: Sequence[StageBytes]) -> list[int]:
    """Return the end of each segment, the last one being len(stages), for the lowest peak.

    While a segment is computed again, the inputs of all segments up to it and everything within it are held.
    """
    total, largest = sum(stage.saved for stage in stages), max(stage.saved for stage in stages)
    best: tuple[float, list[int]] = (stages[0].input + total, [len(stages)])
    for number in range(CUTS_TRIED):
        limit = largest * max(total / max(largest, 1), 1) ** (number / CUTS_TRIED)
        ends = _cuts_within(stages, limit)
        held, peak, start = 0.0, 0.0, 0
        for end in ends:
            held += stages[start].input
            peak = max(peak, held + sum(stage.saved for stage in stages[start:end]))
            start = end
        best = min(best, (peak, ends), key=lambda choice: choice[0])
    return best[1]


def _cuts_within(stages: Sequence[StageBytes], limit: float) -> list[int]:
    """Return the ends of segments that hold at most `limit`, where they can, and whose inputs are smallest together."""
    cost = [0.0] + [float("inf")] * len(stages)  # of all inputs of the segments that end before a stage
    came_from = [0] * (len(stages) + 1)
    for start, stage in enumerate(stages):
        if start and not stage.cut:
            continue
        within = 0.0
        for end in range(start + 1, len(stages) + 1):
            within += stages[end - 1].saved
            if within > limit and end > start + 1 and stages[end - 1].cut:
                break
            if cost[start] + stage.input < cost[end]:
                cost[end], came_from[end] = cost[start] + stage.input, start
    ends = [len(stages)]
    while came_from[ends[0]]:
        ends.insert(0, came_from[ends[0]])
    return ends


def _flat(module: nn.Module) -> list[nn.Module]:
    """Return the parts that a module runs one after another; itself where it does anything else."""
    if type(module).forward is nn.Sequential.forward:
        return [part for child in module.children() for part in _flat(child)]
    return [module]


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _run(modules: Any, x: Tensor) -> Tensor:  # noqa: ANN401
    for module in modules:
        x = module(x)
    return x


class _Recomputed(torch.autograd.Function):
    """Runs a segment without a trace; its backward pass runs it again, this time with one."""

    @staticmethod
    def forward(ctx: Any, segment: nn.Module, x: Tensor, anchor: Tensor) -> Tensor:  # noqa: ANN401
        ctx.segment, ctx.random_state = segment, _random_state(x.device)
        kind = "cpu" if x.is_meta else x.device.type  # tensors without content stand for those of the CPU
        ctx.autocast = (kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind), False)
        ctx.save_for_backward(x)
        with torch.autocast(*ctx.autocast):
            y: Tensor = segment(x)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor | None, None]:  # noqa: ANN401
        (x,) = ctx.saved_tensors
        x = x.detach().requires_grad_(ctx.needs_input_grad[1])
        with (
            _same_random_state(x.device),
            torch.enable_grad(),
            torch.autocast(*ctx.autocast),
            _buffers_as_they_are(ctx.segment),
        ):
            _set_random_state(x.device, ctx.random_state)
            y = ctx.segment(x)
        torch.autograd.backward(y, gradient)
        return None, x.grad, None


@contextmanager
def _buffers_as_they_are(module: nn.Module) -> Iterator[None]:
    """Let a module change copies of its running statistics instead of its own, which have seen this batch already."""
    owners = [part for part in module.modules() if part._buffers]
    own = [dict(part._buffers) for part in owners]
    for part in owners:
        part._buffers.update({name: value.clone() for name, value in part._buffers.items() if value is not None})
    try:
        yield
    finally:
        for part, buffers in zip(owners, own, strict=True):
            part._buffers.update(buffers)


@contextmanager
def _same_random_state(device: torch.device) -> Iterator[None]:
    """Put the generator back to where it was."""
    state = _random_state(device)
    try:
        yield
    finally:
        _set_random_state(device, state)


def _random_state(device: torch.device) -> Tensor:
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    return torch.mps.get_rng_state() if device.type == "mps" else torch.default_generator.get_state()


def _set_random_state(device: torch.device, state: Tensor) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    elif device.type == "mps":
        torch.mps.set_rng_state(state)
    else:
        torch.default_generator.set_state(state)

"""Activation checkpointing: a network in segments that keep only their input and are run again for the backward pass.

torch.utils.checkpoint does the same; it is left out because its first call imports torch's compiler, which takes three
seconds, and because it moves the running statistics of batch norm twice.

Source: Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016, https://arxiv.org/abs/1604.06174
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from convscope.errors import UsageError
from convscope.models.surgery.stages import find_stages, flat_layers
from convscope.torch_internals import storage_key, version

CUTS_TRIED = 48
"""Number of sizes of the largest segment that are compared."""


@dataclass(frozen=True)
class StageBytes:
    """What a stage holds in a training step, for one image.

    Args:
        saved: kept for the backward pass beyond its input.
        input: its input.
        cut: whether a segment may begin here; it may not if the stage changes its input in place.
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
        *recomputed, last = self.segments
        # The anchor makes autograd call the backward pass if the input needs no gradient.
        anchor = torch.zeros((), requires_grad=True) if torch.is_grad_enabled() else None
        for segment in recomputed:
            learns = anchor is not None and any(value.requires_grad for value in (x, *segment.parameters()))
            x = _Recomputed.apply(segment, x, anchor) if learns else segment(x)
        y: Tensor = last(x)
        return y


def checkpoint_activations(network: nn.Module, input_shape: Sequence[int]) -> Checkpointed:
    """Return the network cut into segments such that a training step takes the least memory.

    The last segment is left as it is: it would be recomputed immediately.

    Args:
        input_shape: of one image as the network takes it, without the batch axis.

    Raises:
        UsageError: the network is not known to be a chain.
    """
    try:
        found = find_stages(network, tuple(input_shape))  # type: ignore[arg-type]
    except UsageError:
        raise UsageError(
            f"a {type(network).__name__} is not known as a chain of stages, so it cannot be cut into segments that are "
            "recomputed; leave out --checkpoint-activations and take a smaller --batch-size with --accumulate"
        ) from None
    stages = [layer for _, module in found for layer in flat_layers(module)]
    ends = _best_cuts(stage_bytes(stages, input_shape))
    starts = [0, *ends[:-1]]
    return Checkpointed([nn.Sequential(*stages[a:b]) for a, b in zip(starts, ends, strict=True)])


def stage_bytes(stages: Sequence[nn.Module], input_shape: Sequence[int]) -> list[StageBytes]:
    """Return what each stage holds, counted in a forward pass that changes nothing in the stages.

    What a stage keeps is freed when the next one runs, because not all of the network may fit.
    """
    network = nn.ModuleList(stages)
    device = next(network.parameters()).device
    images = 2  # batch norm needs more than one value a channel
    x = torch.zeros(images, *input_shape, device=device)
    permanent = {storage_key(tensor) for tensor in (*network.parameters(), *network.buffers())}
    seen = {storage_key(x)}
    saved, inputs, cuts = [0.0] * len(stages), [0.0] * len(stages), [True] * len(stages)
    number, input_key, known = 0, storage_key(x), set(permanent)
    alive: list[Tensor] = []  # so that no storage gets the key of another

    def pack(tensor: Tensor) -> None:
        key = storage_key(tensor)
        if key not in known:
            known.add(key)
            saved[number - 1 if key == input_key else number] += tensor.untyped_storage().nbytes() / images
        alive.append(tensor)

    for number, stage in enumerate(stages):
        before, unchanged = x, version(x)
        inputs[number] = x.nbytes / images
        input_key = storage_key(x)
        known = permanent | (seen & {input_key})
        alive.append(x)
        with (
            torch.autograd.graph.saved_tensors_hooks(pack, lambda _: None),  # type: ignore[arg-type,return-value]
            torch.enable_grad(),
            _same_random_state(device),
            _buffers_as_they_are(stage),
        ):
            alive.extend(stage.buffers())
            known.update(map(storage_key, stage.buffers()))
            x = stage(x)
        cuts[number] = version(before) == unchanged
        seen = known
        alive.clear()  # the graph holds `pack`, which holds `alive`, which holds the graph
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


class _Recomputed(torch.autograd.Function):
    """Runs a segment without a trace; its backward pass runs it again, this time with one."""

    @staticmethod
    def forward(ctx: Any, segment: nn.Module, x: Tensor, anchor: Tensor) -> Tensor:  # noqa: ANN401
        ctx.segment, ctx.random_state = segment, _random_state(x.device)
        kind = "cpu" if x.is_meta else x.device.type  # the meta device stands for the CPU
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
    """Let a module update copies of its running statistics; its own have seen this batch already."""
    own = [(layer, name, buffer) for layer in module.modules() for name, buffer in layer.named_buffers(recurse=False)]
    for layer, name, buffer in own:
        setattr(layer, name, buffer.clone())
    try:
        yield
    finally:
        for layer, name, buffer in own:
            setattr(layer, name, buffer)


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

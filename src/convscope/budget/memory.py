"""The memory of a network, predicted: layer by layer, for predictions and for a step of training."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convscope.budget.costs import layer_macs
from convscope.budget.precision import Autocast
from convscope.budget.trace import OUTSIDE, Allocations, without_content
from convscope.budget.work import Work
from convscope.config import TrainConfig
from convscope.errors import UsageError
from convscope.models.segments import Checkpointed, checkpoint_activations
from convscope.results import Budget, LayerCost, Memory

WEIGHTS, BUFFERS, OPTIMIZER = "weights", "buffers", "optimizer"
INPUT, SAVED, GRADIENTS, WORKSPACE = "input", "saved for backward", "gradients", "workspace"
DEFAULT_MOMENTUM = 0.9
COMPUTED = "the network computes with the content of its tensors, so real steps were run to see what they take"
REDUCED = torch.bfloat16
"""The format of mixed precision; float16, which some devices have instead, is as large."""


def predict_memory(
    network: nn.Module,
    input_shape: tuple[int, int, int],
    *,
    batch_size: int,
    train: TrainConfig,
    name: str = "",
    prepared: int | None = None,
) -> Budget:
    """Return what a network takes in predictions and in a step of training, without computing or allocating it.

    Args:
        network: in the memory order it is trained in, on any device, meta included. Parameters that need no gradient
            are frozen. It is left as it was. Where it computes with the content of its tensors, a copy of it does so
            on black pictures, and the step takes the memory and time that it takes.
        batch_size: pictures in the network at a time.
        train: optimizer, momentum, accumulate, label smoothing, mixed precision and the checkpointing of activations
            count; its batch_size does not.
        prepared: pictures that are prepared in one go, of which a batch is a part; None: a batch.

    Raises:
        UsageError: a layer cannot take its input, which is named; or activations are to be checkpointed and the
            network is not known to be a chain.
        NotTraceable: the network computes with the content of its tensors, and has none.
    """
    network = to_trace(network, input_shape)
    prepared = max(batch_size, prepared or 0)
    held = _held(network, train)
    weights, buffers, optimizer = held.values()
    fixed = weights + buffers
    one = _peak(_trace_prediction(network, input_shape, 1, 1))
    many = _peak(_trace_prediction(network, input_shape, batch_size, prepared))
    step = _trace_step(network, input_shape, batch_size, prepared, train)
    saved_by = Counter[str]()
    for allocation in step.saved:
        saved_by[step.memory.owners[allocation]] += step.memory.sizes[allocation]
    layers = tuple(_layer_costs(network, step.calls, saved_by, batch_size))
    peak = max(step.timeline(), key=lambda parts: sum(parts.values()))
    return Budget(
        model=name,
        input_shape=input_shape,
        batch_size=batch_size,
        optimizer=train.optimizer,
        momentum=_momentum(train),
        num_params=sum(p.numel() for p in network.parameters()),
        num_trainable=sum(p.numel() for p in network.parameters() if p.requires_grad),
        macs=sum(layer.macs for layer in layers),
        layers=layers,
        memory=Memory(
            weights_bytes=weights,
            buffers_bytes=buffers,
            gradients_bytes=sum(step.memory.sizes[number] for number in step.gradients),
            optimizer_bytes=optimizer,
            saved_bytes=sum(layer.saved_bytes for layer in layers),
            workspace_bytes=max(parts[WORKSPACE] for parts in step.timeline()),
            input_bytes=4 * batch_size * prod(input_shape),
            prediction_peak_bytes=fixed + one,
            inference_peak_bytes=fixed + many,
            training_peak_bytes=sum(held.values()) + sum(peak.values()),
            peak_parts=held | dict(peak),
        ),
        computed=has_content(network),
    )


@dataclass(frozen=True)
class StepCost:
    """What a step of training takes.

    Args:
        peak_bytes: the most memory, weights, buffers and optimizer included.
        work: its operations, those of the optimizer aside.
    """

    peak_bytes: int
    work: tuple[Work, ...]


def predict_step(
    network: nn.Module,
    input_shape: tuple[int, int, int],
    *,
    batch_size: int,
    train: TrainConfig,
    prepared: int | None = None,
) -> StepCost:
    """Return what a step of training takes; arguments and errors are those of `predict_memory`."""
    network = to_trace(network, input_shape)
    step = _trace_step(network, input_shape, batch_size, max(batch_size, prepared or 0), train)
    peak = max(sum(parts.values()) for parts in step.timeline())
    last = len(step.memory.work) // min(2, train.accumulate)  # with accumulated gradients two batches are traced
    return StepCost(sum(_held(network, train).values()) + peak, tuple(step.memory.work[-last:]))


def cut_into_segments(network: nn.Module, input_shape: tuple[int, ...]) -> Checkpointed:
    """Return a network that is to be traced in the segments that training with checkpointed activations cuts it into.

    Raises:
        UsageError: the network is not known to be a chain.
    """
    if has_content(network):
        return checkpoint_activations(network, input_shape)
    with Allocations(()):  # for its quick rules of what a CPU's operations return
        return checkpoint_activations(network, input_shape)


def _held(network: nn.Module, train: TrainConfig) -> dict[str, int]:
    """Return the bytes that are there before a step begins."""
    return {
        WEIGHTS: _bytes(network.parameters()),
        BUFFERS: _bytes(network.buffers()),
        OPTIMIZER: optimizer_bytes([p for p in network.parameters() if p.requires_grad], train),
    }


def predict_inference_bytes(network: nn.Module, input_shape: tuple[int, int, int], batch_size: int) -> int:
    """Return the most bytes that predictions of one batch allocate, beside weights and buffers.

    Raises:
        UsageError, NotTraceable: as `predict_memory`.
    """
    return _peak(_trace_prediction(to_trace(network, input_shape), input_shape, batch_size, batch_size))


def predict_maps_bytes(network: nn.Module, input_shape: tuple[int, int, int]) -> int:
    """Return the bytes of all that the network makes of one picture, as if nothing were let go of."""
    return _trace_prediction(to_trace(network, input_shape), input_shape, 1, 1).result_bytes


def to_trace(network: nn.Module, input_shape: tuple[int, ...]) -> nn.Module:
    """Return a copy of the network to be traced: without content, or with it where the network computes with that.

    A network that has no content is taken as it is; that it needs some shows when it is traced.
    """
    shell = without_content(network)
    if has_content(network):
        try:
            _trace_prediction(shell, input_shape, 1, 1)
        except NotTraceable:
            return copy.deepcopy(network).cpu()
    return shell


def has_content(network: nn.Module) -> bool:
    """Return whether there are numbers in the network's weights."""
    return not next(network.parameters()).is_meta


def optimizer_bytes(parameters: Sequence[Tensor], train: TrainConfig) -> int:
    """Return what the optimizer keeps for the parameters that learn, in the network's order; Adam's step count aside.

    Adam keeps two numbers a parameter, SGD one if it has momentum, Muon one for each weight it moves itself.
    """
    if train.optimizer == "sgd":
        return _bytes(parameters) if _momentum(train) else 0
    by_muon = [p for p in parameters if p.ndim > 1][:-1] if train.optimizer == "muon" else []
    return 2 * _bytes(parameters) - _bytes(by_muon)


def _momentum(train: TrainConfig) -> float:
    return DEFAULT_MOMENTUM if train.momentum is None else train.momentum


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


# ---------------------------------------------------------------- what is traced


@dataclass(frozen=True)
class _Call:
    """The first call of a layer: the shape of its output, None where that is no single tensor, and its operations."""

    output: tuple[int, ...] | None
    output_bytes: int
    macs: int


@dataclass(frozen=True)
class _Step:
    """A traced step: the numbers of the allocations of each kind."""

    memory: Allocations
    calls: Mapping[str, _Call]
    inputs: set[int]
    saved: set[int]
    gradients: set[int]

    def timeline(self) -> Iterator[Counter[str]]:
        """Yield the bytes of each kind in use, after each change."""
        kind_of = dict.fromkeys(self.saved, SAVED) | dict.fromkeys(self.gradients, GRADIENTS)
        kind_of |= dict.fromkeys(self.inputs, INPUT)
        parts = Counter({INPUT: 0, SAVED: 0, GRADIENTS: 0, WORKSPACE: 0})
        for change in self.memory.changes:
            parts[kind_of.get(change.allocation, WORKSPACE)] += change.num_bytes
            yield parts.copy()


def _trace_prediction(network: nn.Module, input_shape: tuple[int, ...], batch_size: int, prepared: int) -> Allocations:
    """Return what is allocated for predictions of one batch, beside weights and buffers."""
    memory = Allocations([*network.parameters(), *network.buffers()], computing=has_content(network))
    modes = {module: module.training for module in network.modules()}
    with memory, torch.no_grad(), _naming_layers(network, input_shape):
        x = _pictures(network, input_shape, batch_size, prepared)
        network.eval()(x)
    for module, training in modes.items():
        module.training = training
    return memory


def _peak(memory: Allocations) -> int:
    in_use = peak = 0
    for change in memory.changes:
        in_use += change.num_bytes
        peak = max(peak, in_use)
    return peak


def _trace_step(
    network: nn.Module, input_shape: tuple[int, ...], batch_size: int, prepared: int, train: TrainConfig
) -> _Step:
    """Trace a step of training; with accumulated gradients the second one, when those of the first are there."""
    memory = Allocations([*network.parameters(), *network.buffers()], computing=has_content(network))
    calls: dict[str, _Call] = {}
    forward = cut_into_segments(network, input_shape) if train.checkpoint_activations else network
    forward.train()
    for _ in range(min(2, train.accumulate)):
        precision = Autocast(REDUCED) if train.mixed_precision else None
        with memory, _naming_layers(network, input_shape):
            x = _pictures(network, input_shape, batch_size, prepared)
            labels = _zeros((batch_size,), torch.int64, x.device)
            inputs = memory.numbers([x, labels])
            before = memory.alive()
            with precision or nullcontext(), memory.watching(network), _noting_calls(network, calls, batch_size):
                logits = forward(x)
                loss = _loss(logits, labels, train)
            if precision is not None:
                precision.forget()
            saved = memory.alive() - before
        with memory, precision or nullcontext():  # what is computed again is computed as it was
            if loss.requires_grad:
                torch.autograd.backward(loss)  # not as a method, which would put the mode aside meanwhile
        gradients = memory.numbers(p.grad for p in network.parameters())
        del x, labels, logits, loss, precision
    return _Step(memory, calls, inputs, saved, gradients)


def _loss(logits: Tensor, labels: Tensor, train: TrainConfig) -> Tensor:
    """Return the loss of the training loop; the mean where the network does not end in K values."""
    if logits.dim() != 2:
        return logits.mean()
    return F.cross_entropy(logits, labels, label_smoothing=train.label_smoothing)


def _pictures(network: nn.Module, input_shape: tuple[int, ...], batch_size: int, prepared: int) -> Tensor:
    """Return a batch, on the network's device, as data/batches.py prepares it.

    It is made from uint8 [N, H, W, C], and a part of what is prepared in one go.
    """
    channels, height, width = input_shape
    device = next(network.parameters()).device
    pictures = _zeros((prepared, height, width, channels), torch.uint8, device)
    return pictures.permute(0, 3, 1, 2).float()[:batch_size]


def _zeros(shape: tuple[int, ...], kind: torch.dtype, device: torch.device) -> Tensor:
    return (torch.empty if device.type == "meta" else torch.zeros)(shape, dtype=kind, device=device)


# ---------------------------------------------------------------- layers


@contextmanager
def _noting_calls(network: nn.Module, calls: dict[str, _Call], batch_size: int) -> Iterator[None]:
    handles = []
    for name, module in network.named_modules():

        def note(module: nn.Module, _: object, output: object, name: str = name or OUTSIDE) -> None:
            tensor = output if isinstance(output, Tensor) else None
            calls.setdefault(
                name,
                _Call(
                    None if tensor is None else tuple(tensor.shape[1:]),
                    0 if tensor is None else tensor.numel() * tensor.element_size(),
                    layer_macs(module, tensor) if tensor is not None else 0,
                ),
            )

        handles.append(module.register_forward_hook(note))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _layer_costs(
    network: nn.Module, calls: Mapping[str, _Call], saved_by: Mapping[str, int], batch_size: int
) -> Iterator[LayerCost]:
    """Yield the layers in the order of their first output: those without parts, and what others do of their own."""
    modules = {name or OUTSIDE: module for name, module in network.named_modules()}
    counted: set[int] = set()
    for name, call in calls.items():
        module = modules[name]
        own = [p for p in module.parameters(recurse=False) if id(p) not in counted]
        counted |= {id(p) for p in own}
        saved = saved_by.get(name, 0)
        if next(module.children(), None) is not None and not own and not saved:
            continue
        yield LayerCost(
            name=name,
            kind=type(module).__name__,
            output_shape=call.output,
            num_params=sum(p.numel() for p in own),
            arithmetic=parameter_arithmetic(module),
            macs=call.macs,
            output_bytes=call.output_bytes,
            saved_bytes=saved,
        )


def parameter_arithmetic(module: nn.Module) -> str:
    """Return how the parameters of a layer are counted, "" where it has none of its own.

    Example:
        >>> parameter_arithmetic(nn.Conv2d(100, 200, 3))
        '(3x3x100 + 1) x 200 = 180,200'
    """
    own = dict(module.named_parameters(recurse=False))
    total = sum(p.numel() for p in own.values())
    weight, bias = own.get("weight"), own.get("bias")
    if not own:
        return ""
    if isinstance(module, nn.Conv2d | nn.Linear) and weight is not None and len(own) <= 2:
        outputs, inputs, *kernel = weight.shape
        one = "x".join(map(str, (*kernel, inputs)))
        return f"{one} x {outputs} = {total:,}" if bias is None else f"({one} + 1) x {outputs} = {total:,}"
    shapes = ["x".join(map(str, p.shape)) or "1" for p in own.values()]
    terms = [f"{count} x {shape}" if count > 1 else shape for shape, count in Counter(shapes).items()]
    return f"{' + '.join(terms)} = {total:,}"


@contextmanager
def _naming_layers(network: nn.Module, input_shape: tuple[int, ...]) -> Iterator[None]:
    """Say in an error which layer could not take what."""
    running: list[tuple[str, nn.Module, Any]] = []
    handles = []
    for name, module in network.named_modules():

        def enter(module: nn.Module, inputs: Any, name: str = name or OUTSIDE) -> None:  # noqa: ANN401
            running.append((name, module, inputs))

        handles.append(module.register_forward_pre_hook(enter))
        handles.append(module.register_forward_hook(lambda *_: running.pop() and None))
    try:
        yield
    except NotImplementedError as error:
        raise NotTraceable(str(error)) from error
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        if "meta" in str(error).lower() or not running:
            raise NotTraceable(str(error)) from error
        name, module, inputs = running[-1]
        shapes = ", ".join("x".join(map(str, x.shape[1:])) for x in inputs if isinstance(x, Tensor))
        reason = " ".join(str(error).split())[:200]
        raise UsageError(
            f"layer {name!r} ({type(module).__name__}) cannot take maps of {shapes}: {reason}. The pictures are "
            f"{'x'.join(map(str, input_shape))}; give others with --input"
        ) from error
    finally:
        for handle in handles:
            handle.remove()


class NotTraceable(Exception):
    """The network computes with the content of its tensors and has none, so that its memory can only be measured."""

"""The memory that a network needs, predicted: for inference and for a step of training."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convscope.config import DEFAULT_COMPUTE, ComputeConfig, RunConfig, TrainConfig
from convscope.memory.layers import LayerCall, NotTraceable, layer_costs, naming_layers, noting_calls
from convscope.memory.precision import Autocast
from convscope.memory.speed import Work
from convscope.memory.trace import Allocations, to_meta
from convscope.models import build_shapes
from convscope.models.eval_mode import eval_mode
from convscope.models.saved import channels_last
from convscope.models.spec import InputShape
from convscope.models.surgery.head import freeze_all_but_head
from convscope.models.surgery.segments import Checkpointed, checkpoint_activations
from convscope.results.memory import Budget, Memory

WEIGHTS, BUFFERS, OPTIMIZER = "weights", "buffers", "optimizer"

INPUT, SAVED, GRADIENTS, WORKSPACE = "input", "saved for backward", "gradients", "workspace"
COMPUTED = "the network computes with the values of its tensors, so real steps were run and measured"


def predict_memory(
    network: nn.Module,
    input_shape: tuple[int, int, int],
    *,
    batch_size: int,
    train: TrainConfig,
    compute: ComputeConfig = DEFAULT_COMPUTE,
    name: str = "",
    prepared: int | None = None,
) -> Budget:
    """Return the memory that inference and a step of training need, without computing or allocating anything.

    Args:
        network: in the memory order it is trained in, on any device, meta included; it is left unchanged. Parameters
            that need no gradient are frozen. If the network computes with the values of its tensors, a copy of it
            really runs, on black images.
        batch_size: images in the network at a time; the one in `train` is not used.
        prepared: images that are prepared together, the batch among them; None is one batch.

    Raises:
        UsageError: a layer cannot take its input; or checkpointed activations were requested and the network is not
            known to be a chain.
        NotTraceable: the network computes with the values of its tensors and is on the meta device.
    """
    network = to_trace(network, input_shape)
    prepared = max(batch_size, prepared or 0)
    step = _trace_step(network, input_shape, batch_size, prepared, train, compute)
    saved_by = Counter[str]()
    for allocation in step.saved:
        saved_by[step.memory.owners[allocation]] += step.memory.sizes[allocation]
    layers = tuple(layer_costs(network, step.calls, saved_by))
    one, many = (_peak(_trace_prediction(network, input_shape, *sizes)) for sizes in ((1, 1), (batch_size, prepared)))
    return Budget(
        model=name,
        input_shape=input_shape,
        batch_size=batch_size,
        optimizer=train.optimizer,
        momentum=train.momentum_or_default,
        num_params=sum(p.numel() for p in network.parameters()),
        num_trainable=sum(p.numel() for p in network.parameters() if p.requires_grad),
        macs=sum(layer.macs for layer in layers),
        layers=layers,
        memory=_memory(step, _held(network, train), one, many, 4 * batch_size * prod(input_shape)),
        computed=has_values(network),
    )


def _memory(step: _Step, held: Mapping[str, int], one: int, many: int, input_bytes: int) -> Memory:
    """Return the memory of a step by purpose, and that of inference with one image and with many."""
    weights, buffers, optimizer = held.values()
    peak = max(step.timeline(), key=lambda kinds: sum(kinds.values()))
    return Memory(
        weights_bytes=weights,
        buffers_bytes=buffers,
        gradients_bytes=sum(step.memory.sizes[number] for number in step.gradients),
        optimizer_bytes=optimizer,
        saved_bytes=sum(step.memory.sizes[number] for number in step.saved),
        workspace_bytes=max(kinds[WORKSPACE] for kinds in step.timeline()),
        input_bytes=input_bytes,
        prediction_peak_bytes=weights + buffers + one,
        inference_peak_bytes=weights + buffers + many,
        training_peak_bytes=sum(held.values()) + sum(peak.values()),
        peak_parts={**held, **peak},
    )


def budget_of_run(config: RunConfig, shape: InputShape, num_classes: int, *, batch_size: int = 0) -> Budget | None:
    """Return the memory of a step of training; None if the network computes with the values of its tensors.

    The head of a frozen network learns from stored features; here every step computes them again.

    Args:
        batch_size: replaces the configuration's; 0 keeps it.
    """
    network = channels_last(build_shapes(config.model, shape, num_classes))
    if config.frozen:
        freeze_all_but_head(network)
    try:
        return predict_memory(
            network,
            shape,
            batch_size=batch_size or config.train.batch_size,
            train=config.train,
            compute=config.compute,
        )
    except NotTraceable:
        return None


@dataclass(frozen=True)
class StepCost:
    """The cost of a step of training.

    Args:
        peak_bytes: peak memory, with weights, buffers and optimizer.
        work: the operations, without those of the optimizer.
    """

    peak_bytes: int
    work: tuple[Work, ...]


def predict_step(
    network: nn.Module,
    input_shape: tuple[int, int, int],
    *,
    batch_size: int,
    train: TrainConfig,
    compute: ComputeConfig = DEFAULT_COMPUTE,
    prepared: int | None = None,
) -> StepCost:
    """Return the cost of a step of training; arguments and errors are those of `predict_memory`."""
    network = to_trace(network, input_shape)
    step = _trace_step(network, input_shape, batch_size, max(batch_size, prepared or 0), train, compute)
    peak = max(sum(parts.values()) for parts in step.timeline())
    last = len(step.memory.work) // min(2, train.accumulate)  # with accumulated gradients two batches are traced
    return StepCost(sum(_held(network, train).values()) + peak, tuple(step.memory.work[-last:]))


def cut_into_segments(network: nn.Module, input_shape: tuple[int, ...]) -> Checkpointed:
    """Return a network to be traced, cut into the segments of training with checkpointed activations.

    Raises:
        UsageError: the network is not known to be a chain.
    """
    if has_values(network):
        return checkpoint_activations(network, input_shape)
    with Allocations(()):  # replaces the meta kernels by those of the CPU
        return checkpoint_activations(network, input_shape)


def _held(network: nn.Module, train: TrainConfig) -> dict[str, int]:
    """Return the bytes in use before a step begins."""
    return {
        WEIGHTS: _bytes(network.parameters()),
        BUFFERS: _bytes(network.buffers()),
        OPTIMIZER: optimizer_bytes([p for p in network.parameters() if p.requires_grad], train),
    }


def predict_inference_bytes(network: nn.Module, input_shape: tuple[int, int, int], batch_size: int) -> int:
    """Return the peak bytes that inference on one batch allocates besides weights and buffers.

    Args:
        network: from `to_trace`, as for `predict_maps_bytes`.
    """
    return _peak(_trace_prediction(network, input_shape, batch_size, batch_size))


def predict_maps_bytes(network: nn.Module, input_shape: tuple[int, int, int]) -> int:
    """Return the bytes of all feature maps of one image together, as if none were freed."""
    return _trace_prediction(network, input_shape, 1, 1).result_bytes


def to_trace(network: nn.Module, input_shape: tuple[int, ...]) -> nn.Module:
    """Return a copy of the network to be traced: on the meta device, or with its values if it computes with them.

    A network on the meta device is not tried: if it needs values, tracing it raises NotTraceable.
    """
    on_meta = to_meta(network)
    if has_values(network):
        try:
            _trace_prediction(on_meta, input_shape, 1, 1)
        except NotTraceable:
            return copy.deepcopy(network).cpu()
    return on_meta


def has_values(network: nn.Module) -> bool:
    """Return whether the network's weights have values, that is, are not on the meta device."""
    return not next(network.parameters()).is_meta


def optimizer_bytes(parameters: Sequence[Tensor], train: TrainConfig) -> int:
    """Return the bytes of the optimizer's state, without the step count.

    Adam stores two numbers per parameter, SGD one if it has momentum, Muon one per weight that it updates itself.

    Args:
        parameters: those that learn, in the network's order.
    """
    if train.optimizer == "sgd":
        return _bytes(parameters) if train.momentum_or_default else 0
    by_muon = [p for p in parameters if p.ndim > 1][:-1] if train.optimizer == "muon" else []
    return 2 * _bytes(parameters) - _bytes(by_muon)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@dataclass(frozen=True)
class _Step:
    """A traced step: the indices of the allocations of each kind."""

    memory: Allocations
    calls: Mapping[str, LayerCall]
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
    """Return what inference on one batch allocates besides weights and buffers."""
    memory = Allocations([*network.parameters(), *network.buffers()], computing=has_values(network))
    with eval_mode(network), memory, torch.no_grad(), naming_layers(network, input_shape):
        x = _images(network, input_shape, batch_size, prepared)
        network(x)
    return memory


def _peak(memory: Allocations) -> int:
    in_use = peak = 0
    for change in memory.changes:
        in_use += change.num_bytes
        peak = max(peak, in_use)
    return peak


def _trace_step(
    network: nn.Module,
    input_shape: tuple[int, ...],
    batch_size: int,
    prepared: int,
    train: TrainConfig,
    compute: ComputeConfig,
) -> _Step:
    """Trace a step of training; with accumulated gradients two, as the second also holds the gradients of the first."""
    memory = Allocations([*network.parameters(), *network.buffers()], computing=has_values(network))
    calls: dict[str, LayerCall] = {}
    forward = cut_into_segments(network, input_shape) if compute.checkpoint_activations else network
    forward.train()
    for _ in range(min(2, train.accumulate)):
        precision = None if compute.precision == "float32" else Autocast(torch.bfloat16)  # float16 takes the same
        with memory, naming_layers(network, input_shape):
            x = _images(network, input_shape, batch_size, prepared)
            labels = _zeros((batch_size,), torch.int64, x.device)
            inputs = memory.numbers([x, labels])
            before = memory.alive()
            with precision or nullcontext(), memory.watching(network), noting_calls(network, calls):
                logits = forward(x)
                loss = _loss(logits, labels, train)
            if precision is not None:
                precision.forget()
            saved = memory.alive() - before
        with memory, precision or nullcontext():  # checkpointed segments are computed again in the same format
            if loss.requires_grad:
                torch.autograd.backward(loss)  # the method loss.backward() would disable the mode
        gradients = memory.numbers(p.grad for p in network.parameters())
        del x, labels, logits, loss, precision
    return _Step(memory, calls, inputs, saved, gradients)


def _loss(logits: Tensor, labels: Tensor, train: TrainConfig) -> Tensor:
    """Return the loss of the training loop; the mean if the network does not return [B, K]."""
    if logits.dim() != 2:
        return logits.mean()
    return F.cross_entropy(logits, labels, label_smoothing=train.label_smoothing)


def _images(network: nn.Module, input_shape: tuple[int, ...], batch_size: int, prepared: int) -> Tensor:
    """Return a batch on the network's device, made as data/batches.py does: from uint8 [prepared, H, W, C]."""
    channels, height, width = input_shape
    device = next(network.parameters()).device
    images = _zeros((prepared, height, width, channels), torch.uint8, device)
    return images.permute(0, 3, 1, 2).float()[:batch_size]


def _zeros(shape: tuple[int, ...], kind: torch.dtype, device: torch.device) -> Tensor:
    return (torch.empty if device.type == "meta" else torch.zeros)(shape, dtype=kind, device=device)

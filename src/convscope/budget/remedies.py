"""Ways to train with less memory: what each saves and costs for one network, and the quickest that fits a limit.

The result is the same with smaller parts of a batch and with activations computed again, and the same but for rounding
with mixed precision. What gives another network (smaller pictures, frozen layers, a slimmer network) is priced and
never chosen for anyone.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from convscope.budget.memory import StepCost, cut_into_segments, predict_step, to_trace
from convscope.budget.work import Speed
from convscope.config import TrainConfig
from convscope.device import autocast_dtype
from convscope.errors import UsageError
from convscope.models.blocks import InputShape
from convscope.models.zoo import freeze_all_but_head
from convscope.results import Fit, Remedy
from convscope.sizes import size_text

PICTURE_SHARE = 0.75
"""Side of smaller pictures in the table, relative to what was asked for."""
SIDE_STEP = 8
"""Sides are rounded to a multiple of this: networks halve them several times."""
SAME_TIME = 1.01
"""Ways whose times differ by less than this factor count as equally quick; the one that changes less is chosen."""
DEVICES = 2

SLIMMER: Mapping[str, str] = {
    "cnn": "cnn-small",
    "cnn-dropout": "cnn-small",
    "resnet152": "resnet101",
    "resnet101": "resnet50",
    "resnet50": "resnet34",
    "resnet34": "resnet18",
    "vgg19": "vgg11",
    "vgg16": "vgg11",
    "vgg13": "vgg11",
    "densenet201": "densenet121",
    "densenet169": "densenet121",
    "mobilenet_v2": "mobilenetv2_050",
    "mobilenetv2_140": "mobilenetv2_100",
    "mobilenetv2_100": "mobilenetv2_050",
    "efficientnet_b1": "efficientnet_b0",
    "efficientnet_b0": "efficientnet_lite0",
    "convnext_base": "convnext_small",
    "convnext_small": "convnext_tiny",
    "convnext_tiny": "convnext_nano",
}
"""Network -> its next relative that is narrower or shallower."""


@dataclass(frozen=True)
class Subject:
    """What is to be trained.

    Args:
        network: in the memory order it is trained in, on any device, meta included; its frozen parameters need no
            gradient.
        train: `batch_size` pictures are in the network at a time, `accumulate` times for a step.
        device: it will be trained on.
        speed: of that device; see `measure_speed`.
    """

    network: nn.Module
    input_shape: InputShape
    train: TrainConfig
    device: torch.device
    speed: Speed


def plan_fit(subject: Subject, limit_bytes: int, *, beside_bytes: int = 0, reserve_share: float = 0.0) -> Fit:
    """Return the quickest way to train within a limit: parts of the batch, checkpointed activations, mixed precision.

    The pictures between two changes of the weights stay the same.

    Args:
        limit_bytes: for all that the process or device holds.
        beside_bytes: what is there beside the network, its gradients and its activations.
        reserve_share: what is kept free for gaps between pieces of memory, as a share of what a step takes.

    Raises:
        UsageError: nothing fits; says the smallest limit that would do. Or a layer cannot take its input.
        NotTraceable: the network computes with the content of its tensors.
    """
    plain = predict_step(subject.network, subject.input_shape, batch_size=subject.train.batch_size, train=subject.train)
    seconds = subject.speed.seconds(plain.work)
    room = int((limit_bytes - beside_bytes) / (1 + reserve_share))
    frame = _Frame(subject.train, limit_bytes, beside_bytes, reserve_share)
    if plain.peak_bytes <= room:
        return frame.fit(subject.train, plain.peak_bytes, 1.0, "it fits as it is")
    fitting: list[tuple[float, int, TrainConfig, StepCost]] = []
    smallest: list[tuple[int, TrainConfig]] = []
    for number, (train, network) in enumerate(_ways(subject)):
        found = _largest_part(network, subject.input_shape, train, room)
        smallest.append(found.smallest)
        if found.fitting is not None:
            smaller, cost = found.fitting
            factor = subject.speed.seconds(cost.work) * (smaller.accumulate / train.accumulate) / seconds
            fitting.append((factor, number, smaller, cost))
    if not fitting:
        least, train = min(smallest, key=lambda pair: pair[0])
        raise UsageError(frame.too_small(train, least))
    quickest = min(fitting)[0]
    factor, _, train, cost = min((way for way in fitting if way[0] <= quickest * SAME_TIME), key=lambda way: way[1])
    others = [f"{options_of(way[2], subject.train)} x{way[0]:.2f}" for way in sorted(fitting) if way[2] is not train]
    reason = f"without it a step takes {size_text(plain.peak_bytes)}; " + (
        f"of the ways that fit it is the quickest (x{factor:.2f}; {', '.join(others)})"
        if others
        else f"it is the only way that fits (time x{factor:.2f})"
    )
    return frame.fit(train, cost.peak_bytes, factor, reason)


def options_of(train: TrainConfig, before: TrainConfig) -> str:
    """Return the options of `convscope train` that make one configuration of another."""
    options = []
    if train.batch_size != before.batch_size:
        options.append(f"--batch-size {train.batch_size}")
    if train.accumulate != before.accumulate:
        options.append(f"--accumulate {train.accumulate}")
    if train.checkpoint_activations and not before.checkpoint_activations:
        options.append("--checkpoint-activations")
    if train.mixed_precision and not before.mixed_precision:
        options.append("--mixed-precision")
    return " ".join(options)


@dataclass(frozen=True)
class _Found:
    """The largest part of a batch that fits, with what it costs, and the least that any part takes."""

    fitting: tuple[TrainConfig, StepCost] | None
    smallest: tuple[int, TrainConfig]


def _ways(subject: Subject) -> Iterator[tuple[TrainConfig, nn.Module]]:
    """Yield configurations with the network as it is traced for each, those that change least first."""
    train, network = subject.train, to_trace(subject.network, subject.input_shape)
    traced = replace(train, checkpoint_activations=False)
    networks: list[tuple[bool, nn.Module]] = [] if train.checkpoint_activations else [(False, network)]
    try:
        networks.append((True, cut_into_segments(network, subject.input_shape)))
    except UsageError:
        if train.checkpoint_activations:
            raise
    precisions = [True] if train.mixed_precision else [False]
    if not train.mixed_precision and autocast_dtype(subject.device, wanted=True) is not None:
        precisions.append(True)
    for mixed in precisions:
        for checkpointed, module in networks:
            yield replace(traced, mixed_precision=mixed, checkpoint_activations=checkpointed), module


def _largest_part(network: nn.Module, input_shape: InputShape, train: TrainConfig, room: int) -> _Found:
    """Return the largest part of the batch that fits; only parts that divide it, so that a step stays the same.

    Args:
        network: cut into segments already where activations are checkpointed.
    """
    costs: dict[int, StepCost | None] = {}

    def smaller(part: int) -> TrainConfig:
        return replace(train, batch_size=part, accumulate=train.accumulate * train.batch_size // part)

    def fits(part: int) -> bool:
        try:
            traced = replace(smaller(part), checkpoint_activations=False)
            costs[part] = predict_step(network, input_shape, batch_size=part, train=traced)
        except UsageError:
            if part == train.batch_size:
                raise
            costs[part] = None  # batch norm needs more than one value a channel
        cost = costs[part]
        return cost is not None and cost.peak_bytes <= room

    parts = [part for part in range(1, train.batch_size + 1) if train.batch_size % part == 0]
    low, high = 0, len(parts)  # memory grows with the part: all below `low` fit, or are too small to be run
    while low < high:
        middle = (low + high) // 2
        if fits(parts[middle]) or costs[parts[middle]] is None:
            low = middle + 1
        else:
            high = middle
    for part in parts[:low][::-1]:
        cost = costs.get(part)
        if cost is not None:
            return _Found((smaller(part), cost), (cost.peak_bytes, smaller(part)))
    least = min(part for part, cost in costs.items() if cost is not None)
    cost = costs[least]
    assert cost is not None
    return _Found(None, (cost.peak_bytes, smaller(least)))


@dataclass(frozen=True)
class _Frame:
    """What a plan is made within: the configuration before it, and see `plan_fit`."""

    before: TrainConfig
    limit: int
    beside: int
    reserve_share: float

    def fit(self, train: TrainConfig, peak: int, factor: float, reason: str) -> Fit:
        return Fit(
            limit_bytes=self.limit,
            beside_bytes=self.beside,
            reserve_bytes=int(self.reserve_share * peak),
            batch_size=train.batch_size,
            accumulate=train.accumulate,
            checkpoint_activations=train.checkpoint_activations,
            mixed_precision=train.mixed_precision,
            training_peak_bytes=peak,
            time_factor=factor,
            options=options_of(train, self.before),
            reason=reason,
        )

    def too_small(self, train: TrainConfig, least: int) -> str:
        smallest = f"{math.ceil(((1 + self.reserve_share) * least + self.beside) / 2**20)}MiB"
        beside = self.beside
        there = f", of which {size_text(beside)} are taken before the network is there," if beside else ""
        with_ = f" with {options}" if (options := options_of(train, self.before)) else ""
        return (
            f"{size_text(self.limit)}{there} is too little to train this network; the smallest limit that would do is "
            f"{smallest}{with_}. Smaller pictures (--image-size) or a smaller --model take less"
        )


# ---------------------------------------------------------------- the table


def price_remedies(
    subject: Subject,
    *,
    name: str = "",
    build: Callable[[str, InputShape], nn.Module] | None = None,
) -> tuple[Remedy, ...]:
    """Return what each remedy alone saves and costs.

    Args:
        name: of the network, for a slimmer relative; "" knows none.
        build: returns a network of a name for pictures of a shape, in the memory order it is trained in; None leaves
            out smaller pictures and slimmer networks.

    Raises:
        UsageError: a layer cannot take its input.
        NotTraceable: the network computes with the content of its tensors.
    """
    train, network = subject.train, to_trace(subject.network, subject.input_shape)
    pricing = _Pricing(subject, predict_step(network, subject.input_shape, batch_size=train.batch_size, train=train))
    remedies = [*_same_result(pricing, network), *_other_result(pricing, network, name, build)]
    k = DEVICES
    if train.batch_size > 1:
        share = math.ceil(train.batch_size / k)
        cost = predict_step(network, subject.input_shape, batch_size=share, train=train)
        note = (
            "the batch is split, weights, gradients and optimizer are on each; time and memory are estimates without "
            "the exchange of gradients"
        )
        remedies.append(pricing.remedy(f"{k} devices", "", cost, note=note, pictures=share * k))
    return tuple(remedies)


@dataclass(frozen=True)
class _Pricing:
    """What remedies are compared with."""

    subject: Subject
    plain: StepCost

    def remedy(
        self,
        name: str,
        options: str,
        cost: StepCost,
        *,
        changes_result: bool = False,
        times: float = 1,
        pictures: int | None = None,
        note: str = "",
    ) -> Remedy:
        """Return a remedy of this cost, `times` of which make a step of as many pictures."""
        seconds = self.subject.speed.seconds
        factor = times * seconds(cost.work) / seconds(self.plain.work)
        if pictures is not None:
            factor *= self.subject.train.batch_size / pictures
        return Remedy(
            name=name,
            options=options,
            changes_result=changes_result,
            training_peak_bytes=cost.peak_bytes,
            saved_bytes=self.plain.peak_bytes - cost.peak_bytes,
            time_factor=factor,
            note=note,
        )


def _same_result(pricing: _Pricing, network: nn.Module) -> Iterator[Remedy]:
    train, shape = pricing.subject.train, pricing.subject.input_shape
    part = max((part for part in range(1, train.batch_size) if train.batch_size % part == 0), default=None)
    if part is not None:
        smaller = replace(train, batch_size=part, accumulate=train.accumulate * train.batch_size // part)
        cost = predict_step(network, shape, batch_size=part, train=smaller)
        norm = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())
        note = f"batch norm sees {part} pictures at a time" if norm else ""
        yield pricing.remedy(
            "smaller parts", options_of(smaller, train), cost, times=train.batch_size / part, note=note
        )
    if not train.checkpoint_activations:
        try:
            cost = predict_step(cut_into_segments(network, shape), shape, batch_size=train.batch_size, train=train)
            yield pricing.remedy("checkpointing", "--checkpoint-activations", cost)
        except UsageError:
            pass  # no chain: training would refuse it too
    if not train.mixed_precision:
        cost = predict_step(network, shape, batch_size=train.batch_size, train=replace(train, mixed_precision=True))
        has = autocast_dtype(pricing.subject.device, wanted=True) is not None
        note = "" if has else f"this {pricing.subject.device.type} has no 16-bit arithmetic: training stays in float32"
        yield pricing.remedy("mixed precision", "--mixed-precision" if has else "", cost, note=note)


def _other_result(
    pricing: _Pricing, network: nn.Module, name: str, build: Callable[[str, InputShape], nn.Module] | None
) -> Iterator[Remedy]:
    train, (channels, height, width) = pricing.subject.train, pricing.subject.input_shape
    if build is not None:
        sides = [max(SIDE_STEP, round(PICTURE_SHARE * side / SIDE_STEP) * SIDE_STEP) for side in (height, width)]
        try:
            shape = (channels, sides[0], sides[1])
            cost = predict_step(build(name, shape), shape, batch_size=train.batch_size, train=train)
            options = f"--image-size {sides[0]}" if height == width else ""
            yield pricing.remedy(f"pictures of {sides[0]}x{sides[1]}", options, cost, changes_result=True)
        except UsageError:
            pass  # too small for this network
    if all(p.requires_grad for p in network.parameters()):
        frozen = copy.deepcopy(network)
        freeze_all_but_head(frozen)
        cost = predict_step(frozen, pricing.subject.input_shape, batch_size=train.batch_size, train=train)
        note = "worth it with trained weights (--pretrained); what they make of the pictures is computed once a run"
        yield pricing.remedy("all but the last layer frozen", "--freeze", cost, changes_result=True, note=note)
    slimmer = SLIMMER.get(name)
    if build is not None and slimmer is not None:
        cost = predict_step(
            build(slimmer, pricing.subject.input_shape),
            pricing.subject.input_shape,
            batch_size=train.batch_size,
            train=train,
        )
        yield pricing.remedy(f"the network {slimmer}", f"--model {slimmer}", cost, changes_result=True)

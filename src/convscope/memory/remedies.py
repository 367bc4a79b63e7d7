"""Ways to train with less memory, and what each alone saves and costs for one network.

Micro-batches and activation checkpointing give the same result; 16-bit precision differs by rounding. Smaller images,
frozen layers and a slimmer network give another network: they are priced too, but the planner never chooses them.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import nn

from convscope.config import ComputeConfig, TrainConfig
from convscope.device import reduced_dtype
from convscope.errors import UsageError
from convscope.memory.predict import StepCost, cut_into_segments, predict_step, to_trace
from convscope.memory.speed import Speed
from convscope.models.eval_mode import batch_norms
from convscope.models.spec import InputShape
from convscope.models.surgery.head import freeze_all_but_head
from convscope.results.memory import Remedy

IMAGE_SHARE = 0.75
"""Side of the smaller images in the table, as a share of the requested side."""
SIDE_STEP = 8
"""Sides are rounded to a multiple of this, because networks halve them several times."""
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
"""Network -> the next narrower or shallower one of its family."""


@dataclass(frozen=True)
class Subject:
    """A network to be trained, and the device it will be trained on.

    Args:
        network: in the memory order it is trained in, on any device, meta included; frozen parameters need no gradient.
        speed: of the device; see `measure_speed`.
    """

    network: nn.Module
    input_shape: InputShape
    train: TrainConfig
    compute: ComputeConfig
    device: torch.device
    speed: Speed

    def cost(
        self,
        network: nn.Module | None = None,
        *,
        input_shape: InputShape | None = None,
        batch_size: int | None = None,
        train: TrainConfig | None = None,
        **compute: object,
    ) -> StepCost:
        """Return the cost of a step with some of this changed; `compute` are fields of ComputeConfig."""
        return predict_step(
            network or self.network,
            input_shape or self.input_shape,
            batch_size=batch_size or self.train.batch_size,
            train=train or self.train,
            compute=replace(self.compute, **compute),  # type: ignore[arg-type]
        )

    @cached_property
    def plain_cost(self) -> StepCost:
        """The cost of a step without any remedy."""
        return self.cost()

    def remedy(
        self,
        name: str,
        options: str,
        cost: StepCost,
        *,
        changes_result: bool = False,
        steps: float = 1,
        note: str = "",
    ) -> Remedy:
        """Return a remedy with this cost, `steps` of which replace a plain step."""
        seconds = self.speed.seconds
        return Remedy(
            name=name,
            options=options,
            changes_result=changes_result,
            training_peak_bytes=cost.peak_bytes,
            saved_bytes=self.plain_cost.peak_bytes - cost.peak_bytes,
            time_factor=steps * seconds(cost.work) / seconds(self.plain_cost.work),
            note=note,
        )


def price_remedies(
    subject: Subject,
    *,
    name: str = "",
    build: Callable[[str, InputShape], nn.Module] | None = None,
) -> tuple[Remedy, ...]:
    """Return what each remedy alone saves and costs.

    Args:
        name: of the network, to find a slimmer one; "" finds none.
        build: returns the network of a name for images of a shape, in the memory order it is trained in; None leaves
            out smaller images and slimmer networks.

    Raises:
        UsageError: a layer cannot take its input.
        NotTraceable: the network computes with the values of its tensors.
    """
    subject = replace(subject, network=to_trace(subject.network, subject.input_shape))
    remedies = [*_same_result(subject), *_other_result(subject, name, build)]
    if subject.train.batch_size > 1:
        share = math.ceil(subject.train.batch_size / DEVICES)
        note = (
            "each device takes a share of the batch and holds all weights, gradients and optimizer state; the "
            "estimates leave out the exchange of gradients"
        )
        cost = subject.cost(batch_size=share)
        steps = subject.train.batch_size / (share * DEVICES)
        remedies.append(subject.remedy(f"{DEVICES} devices", "", cost, steps=steps, note=note))
    return tuple(remedies)


def _same_result(subject: Subject) -> Iterator[Remedy]:
    batch_size = subject.train.batch_size
    if batch_size > 1:
        number = next(n for n in range(2, batch_size + 1) if batch_size % n == 0)
        size = batch_size // number
        accumulating = replace(subject.train, accumulate=max(2, subject.train.accumulate))
        note = f"batch norm sees {size} images at a time" if any(True for _ in batch_norms(subject.network)) else ""
        cost = subject.cost(batch_size=size, train=accumulating)
        yield subject.remedy("micro-batches", f"--micro-batches {number}", cost, steps=number, note=note)
    if not subject.compute.checkpoint_activations:
        try:
            cost = subject.cost(cut_into_segments(subject.network, subject.input_shape))
            yield subject.remedy("activation checkpointing", "--checkpoint-activations", cost)
        except UsageError:
            pass  # not a chain: training would refuse it too
    if subject.compute.precision == "float32":
        has = reduced_dtype(subject.device, "auto") is not None
        note = "" if has else f"this {subject.device.type} has no 16-bit arithmetic: training stays in float32"
        cost = subject.cost(precision="auto")
        yield subject.remedy("16-bit precision", "--precision auto" if has else "", cost, note=note)


def _other_result(
    subject: Subject, name: str, build: Callable[[str, InputShape], nn.Module] | None
) -> Iterator[Remedy]:
    channels, height, width = subject.input_shape
    if build is not None:
        sides = [max(SIDE_STEP, round(IMAGE_SHARE * side / SIDE_STEP) * SIDE_STEP) for side in (height, width)]
        try:
            shape = (channels, sides[0], sides[1])
            cost = subject.cost(build(name, shape), input_shape=shape)
            options = f"--image-size {sides[0]}" if height == width else ""
            yield subject.remedy(f"images of {sides[0]}x{sides[1]}", options, cost, changes_result=True)
        except UsageError:
            pass  # too small for this network
    if all(p.requires_grad for p in subject.network.parameters()):
        frozen = copy.deepcopy(subject.network)
        freeze_all_but_head(frozen)
        note = "useful with trained weights (--pretrained); the features of the images are computed once per run"
        cost = subject.cost(frozen)
        yield subject.remedy("all but the last layer frozen", "--freeze", cost, changes_result=True, note=note)
    slimmer = SLIMMER.get(name)
    if build is not None and slimmer is not None:
        cost = subject.cost(build(slimmer, subject.input_shape))
        yield subject.remedy(f"the network {slimmer}", f"--model {slimmer}", cost, changes_result=True)

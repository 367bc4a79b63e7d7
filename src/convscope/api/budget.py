"""`budget`: what training a network takes, before any run: memory and time, predicted and, if asked for, measured."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import psutil
import torch
from torch import nn

from convscope.config import (
    SPLIT_WITHOUT_TEST,
    STACK,
    ComputeConfig,
    ModelConfig,
    Optimizer,
    Precision,
    TrainConfig,
    check_range,
)
from convscope.device import choose_device, free_memory_bytes, memory_in_use_bytes, process_unchanged, reduced_dtype
from convscope.errors import UsageError
from convscope.memory.layers import NotTraceable
from convscope.memory.plan import make_plan, plan_options
from convscope.memory.predict import predict_memory, predict_step
from convscope.memory.remedies import Subject, price_remedies
from convscope.memory.speed import measure_speed, predict_duration
from convscope.memory.stages import PlanInputs, TracedModel
from convscope.models import build_model, build_shapes, find_model
from convscope.models.saved import channels_last
from convscope.models.spec import InputShape, ModelSpec
from convscope.models.surgery.head import freeze_all_but_head
from convscope.results.memory import Budget, Duration, Fit, MeasuredMemory
from convscope.run.measured_step import measure_step
from convscope.sizes import parse_bytes

FREE_SHARE = 0.8
"""Batches are timed only if their memory stays within this share of what is free."""


@process_unchanged()
def budget(
    model: str | None = None,
    *,
    stack: str | None = None,
    input_shape: InputShape | None = None,
    batch_size: int = 64,
    num_classes: int | None = None,
    optimizer: Optimizer | None = None,
    momentum: float | None = None,
    accumulate: int | None = None,
    precision: Precision | None = None,
    checkpoint_activations: bool | None = None,
    frozen: bool = False,
    measure: bool = False,
    remedies: bool = False,
    fit: int | str | None = None,
    images: int | None = None,
    epochs: int | None = None,
) -> Budget:
    """Return what training a network takes, layer by layer, for predictions and for a step of training.

    Args:
        model: a network by name; `stack` one that is written out. One of the two.
        input_shape, num_classes: (C, H, W) of an image and K; None are the network's own.
        optimizer, momentum, accumulate, precision, checkpoint_activations, epochs: as for `train`; None are the
            network's own.
        frozen: only the last layer learns.
        measure: run a step in a process of its own and compare.
        remedies: also what each way to take less memory saves and costs.
        fit: a size such as "4GiB": also how `train --memory` trains within it, interpreter and libraries included.
        images: of an epoch: also how long it takes, and all epochs, from a few steps in another process.

    Raises:
        UsageError: a name or value is not valid, a layer cannot take its input, or nothing fits.
    """
    check_range("num_classes", num_classes, least=1)
    check_range("images", images, least=1)
    if model is None:
        model = STACK if stack is not None else "auto"
    config = ModelConfig(name=model, stack=stack)
    spec = None if config.stack is not None else find_model(config.name)
    shape = spec.native_shape if input_shape is None and spec is not None else input_shape
    if shape is None:
        raise UsageError("a stack has no images of its own; name them, for example --input 3x200x300")
    given = {"optimizer": optimizer, "momentum": momentum, "accumulate": accumulate, "epochs": epochs}
    asked = _Asked(
        model=config,
        input_shape=shape,
        num_classes=spec.native_classes if num_classes is None and spec is not None else num_classes,
        train=_train_config(spec, batch_size=batch_size, **given),
        compute=ComputeConfig(
            precision="float32" if precision is None else precision,
            checkpoint_activations=bool(checkpoint_activations),
        ),
        frozen=frozen,
        images=images,
    )
    limit_bytes = parse_bytes(fit) if isinstance(fit, str) else fit
    try:
        found = _predict(asked, remedies, limit_bytes)
    except NotTraceable:  # it has to be run
        asked = replace(asked, with_content=True)
        found = _predict(asked, remedies, limit_bytes)
    return replace(found, measured=asked.measure(batch_size)) if measure else found


def _train_config(spec: ModelSpec | None, **given: Any) -> TrainConfig:  # noqa: ANN401
    """Return the training options of a network, overridden by those that are given."""
    network: Mapping[str, Any] = {} if spec is None else spec.train
    return TrainConfig(**{**network, **{name: value for name, value in given.items() if value is not None}})


@dataclass(frozen=True)
class _Asked:
    """The network and the training that are asked about.

    Args:
        with_content: the network is built with numbers in its weights.
    """

    model: ModelConfig
    input_shape: InputShape
    num_classes: int | None
    train: TrainConfig
    compute: ComputeConfig
    frozen: bool
    images: int | None
    with_content: bool = False

    def build(self, name: str, shape: InputShape) -> nn.Module:
        """Return the network, or another by name; without numbers in its weights unless they are needed."""
        model = self.model if name == self.model.name else ModelConfig(name=name)
        if self.with_content:
            assert self.num_classes is not None  # a stack needs no content
            network = channels_last(build_model(model, shape, self.num_classes))
        else:
            network = channels_last(build_shapes(model, shape, self.num_classes))
        if self.frozen:
            freeze_all_but_head(network)
        return network

    def subject(self, network: nn.Module) -> Subject:
        """Return what remedies are priced for, with the speed of this machine."""
        device = choose_device("auto")
        speed = measure_speed(device, reduced_dtype(device, "auto"))
        return Subject(network, self.input_shape, self.train, self.compute, device, speed)

    def measure(self, batch_size: int) -> MeasuredMemory:
        """Return what a step on a batch of this size took."""
        return measure_step(
            self.model,
            self.input_shape,
            self.num_classes,
            batch_size=batch_size,
            train=self.train,
            compute=self.compute,
            frozen=self.frozen,
        )


def _predict(asked: _Asked, remedies: bool, limit_bytes: int | None) -> Budget:
    """Return the budget with what else was asked for.

    Raises:
        NotTraceable: the network has no content, and cannot do without.
    """
    network, shape, train = asked.build(asked.model.name, asked.input_shape), asked.input_shape, asked.train
    name = asked.model.stack or asked.model.name
    found = predict_memory(network, shape, batch_size=train.batch_size, train=train, compute=asked.compute, name=name)
    if remedies or limit_bytes is not None:
        subject = asked.subject(network)
        if remedies:
            found = replace(found, remedies=price_remedies(subject, name=asked.model.name, build=asked.build))
        if limit_bytes is not None:
            found = replace(found, fit=_fit(asked, subject, limit_bytes))
    if asked.images is not None:
        found = replace(found, duration=_duration(asked, network, asked.images))
    return found


def _fit(asked: _Asked, subject: Subject, limit_bytes: int) -> Fit:
    """Return what `train --memory` would choose for a data set of this size, or of one batch."""
    train, _, test = (share / 100 for share in SPLIT_WITHOUT_TEST)
    num_train = asked.images or asked.train.batch_size
    others = round(num_train * test / train) if asked.images else 0
    traced = TracedModel(subject.network, asked.input_shape)
    resident = _resident_bytes(subject.device, prod(asked.input_shape) * (num_train + 2 * others), traced)
    inputs = PlanInputs(
        traced=traced,
        num_classes=asked.num_classes or 1,
        num_train=num_train,
        num_validation=others,
        num_test=others,
        train=asked.train,
        compute=asked.compute,
        frozen=asked.frozen,
        device=subject.device,
        resident_bytes=resident,
        peak_bytes=resident,
    )
    plan = make_plan(inputs, limit_bytes=limit_bytes, free_bytes=free_memory_bytes(subject.device), auto_batch=False)
    chosen = plan.compute
    size = replace(inputs, compute=chosen).micro_batch_size
    micro = replace(asked.train, accumulate=max(2, asked.train.accumulate)) if chosen.micro_batches > 1 else asked.train
    cost = subject.cost(batch_size=size, train=micro, checkpoint_activations=chosen.checkpoint_activations)
    times = asked.train.batch_size / size
    peak = plan.peak_bytes
    assert peak is not None
    return Fit(
        limit_bytes=limit_bytes,
        peak_bytes=peak,
        stages=plan.stages,
        batch_size=asked.train.batch_size,
        micro_batches=chosen.micro_batches,
        checkpoint_activations=chosen.checkpoint_activations,
        evaluation_batch_size=chosen.evaluation_batch_size,
        time_factor=times * subject.speed.seconds(cost.work) / subject.speed.seconds(subject.cost().work),
        options=plan_options(plan, asked.compute),
        reason=plan.why,
    )


def _resident_bytes(device: torch.device, images_bytes: int, traced: TracedModel) -> int:
    """Return what a training process holds before its first step: on a CPU the libraries and the images as well."""
    if device.type != "cpu":
        return traced.held_bytes
    import convscope.run.finish  # noqa: F401  which imports all that training needs

    return memory_in_use_bytes(device) + images_bytes + traced.held_bytes


def _duration(asked: _Asked, network: nn.Module, images: int) -> Duration:
    """Return the time from steps on the largest batch that fits; where none does, from the operations of a step."""
    train = asked.train
    free = FREE_SHARE * psutil.virtual_memory().available
    timed: int | None = train.batch_size
    while timed is not None:
        cost = predict_step(network, asked.input_shape, batch_size=timed, train=train, compute=asked.compute)
        if cost.peak_bytes <= free:
            break
        timed = timed // 2 if timed > 2 else None  # batch norm needs two
    if timed is None:
        subject = asked.subject(network)
        seconds: tuple[float, ...] = (subject.speed.seconds(subject.cost().work),)
    else:
        seconds = asked.measure(timed).batch_seconds
    return predict_duration(
        seconds,
        measured_batch=timed,
        batch_size=train.batch_size,
        accumulate=train.accumulate,
        images=images,
        epochs=train.epochs,
    )

"""What training a network takes, before any run: memory and time, predicted and, where asked for, measured."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any

import psutil
import torch
from torch import nn

from convscope.budget.duration import predict_duration
from convscope.budget.memory import NotTraceable, predict_memory, predict_step
from convscope.budget.remedies import Subject, plan_fit, price_remedies
from convscope.budget.work import measure_speed
from convscope.config import STACK, ModelConfig, TrainConfig
from convscope.device import autocast_dtype, choose_device, memory_in_use_bytes
from convscope.errors import UsageError
from convscope.models import build_model, build_shapes, find_model
from convscope.models.blocks import InputShape
from convscope.models.saved import channels_last
from convscope.models.zoo import freeze_all_but_head
from convscope.results import Budget, Duration, MeasuredMemory
from convscope.training.measured_step import measure_step
from convscope.training.plan import KEPT_SHARE, LIBRARY_BYTES

FREE_SHARE = 0.8
"""Batches are timed only if their memory stays within this share of what is free."""


def budget(
    model: str | None = None,
    *,
    stack: str | None = None,
    input_shape: InputShape | None = None,
    batch_size: int = 64,
    num_classes: int | None = None,
    frozen: bool = False,
    measure: bool = False,
    remedies: bool = False,
    limit_bytes: int | None = None,
    pictures: int | None = None,
    **options: Any,  # noqa: ANN401
) -> tuple[Budget, MeasuredMemory | None]:
    """Return what training a network takes, predicted; and measured in another process, where that is asked for.

    Args:
        input_shape, num_classes: None are the network's own.
        frozen: only the last layer learns.
        remedies: also what each way to take less memory saves and costs.
        limit_bytes: also the quickest way to train within so much, interpreter and libraries included.
        pictures: also how long an epoch of so many takes, and all epochs, from a few steps in another process.
        options: fields of TrainConfig; None is not given.

    Raises:
        UsageError: a name or value cannot be meant, a layer cannot take its input, or nothing fits the limit.
    """
    config = ModelConfig(name=model or (STACK if stack is not None else "auto"), stack=stack)
    spec = None if config.stack is not None else find_model(config.name)
    given = {name: value for name, value in options.items() if value is not None}
    train = TrainConfig(**(({} if spec is None else dict(spec.train)) | given | {"batch_size": batch_size}))
    if input_shape is None:
        if spec is None:
            raise UsageError("a stack has no pictures of its own; name them, for example --input 3x200x300")
        input_shape = spec.native_shape
    if num_classes is None and spec is not None:
        num_classes = spec.native_classes
    asked = _Asked(config, input_shape, num_classes, train, frozen)
    try:
        found = _predict(asked, asked.build(config.name, input_shape), remedies, limit_bytes, pictures)
    except NotTraceable:  # it has to be run
        asked = replace(asked, with_content=True)
        found = _predict(asked, asked.build(config.name, input_shape), remedies, limit_bytes, pictures)
    return found, asked.measure(batch_size) if measure else None


def _predict(
    asked: _Asked, network: nn.Module, remedies: bool, limit_bytes: int | None, pictures: int | None
) -> Budget:
    """Return the budget with what else was asked for.

    Raises:
        NotTraceable: the network has no content, and cannot do without.
    """
    name = asked.model.stack or asked.model.name
    shape, train = asked.input_shape, asked.train
    found = predict_memory(network, shape, batch_size=train.batch_size, train=train, name=name)
    if remedies or limit_bytes is not None:
        subject = _subject(asked, network)
        if remedies:
            found = replace(found, remedies=price_remedies(subject, name=asked.model.name, build=asked.build))
        if limit_bytes is not None:
            beside = _beside_training(pictures or 0, shape) if subject.device.type == "cpu" else 0
            fit = plan_fit(subject, limit_bytes, beside_bytes=beside, reserve_share=KEPT_SHARE)
            found = replace(found, fit=fit)
    if pictures is not None:
        found = replace(found, duration=_duration(asked, network, pictures))
    return found


def _beside_training(pictures: int, shape: InputShape) -> int:
    """Return what a process that trains on so many pictures takes beside the network, from what it takes here."""
    import convscope.workflow  # noqa: F401  which imports all that training needs

    return memory_in_use_bytes(torch.device("cpu")) + LIBRARY_BYTES + pictures * prod(shape)


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
    frozen: bool
    with_content: bool = False

    def build(self, name: str, shape: InputShape) -> nn.Module:
        """Return the network, or another by name; without numbers in its weights unless they are needed."""
        model = self.model if name == self.model.name else ModelConfig(name=name)
        network = channels_last(self._built(model, shape))
        if self.frozen:
            freeze_all_but_head(network)
        return network

    def _built(self, model: ModelConfig, shape: InputShape) -> nn.Module:
        if not self.with_content:
            return build_shapes(model, shape, self.num_classes)
        assert self.num_classes is not None  # a stack needs no content
        return build_model(model, shape, self.num_classes)

    def measure(self, batch_size: int) -> MeasuredMemory:
        """Return what a step on so many pictures took."""
        return measure_step(
            self.model,
            self.input_shape,
            self.num_classes,
            batch_size=batch_size,
            train=self.train,
            frozen=self.frozen,
        )


def _subject(asked: _Asked, network: nn.Module) -> Subject:
    device = choose_device(asked.train.device)
    speed = measure_speed(device, autocast_dtype(device, wanted=True))
    return Subject(network, asked.input_shape, asked.train, device, speed)


def _duration(asked: _Asked, network: nn.Module, pictures: int) -> Duration:
    """Return the time from steps on the largest batch that fits; where none does, from the operations of a step."""
    train = asked.train
    free = FREE_SHARE * psutil.virtual_memory().available
    timed: int | None = train.batch_size
    while timed is not None:
        cost = predict_step(network, asked.input_shape, batch_size=timed, train=train)
        if cost.peak_bytes <= free:
            break
        timed = timed // 2 if timed > 2 else None  # batch norm needs two
    if timed is None:
        cost = predict_step(network, asked.input_shape, batch_size=train.batch_size, train=train)
        seconds: tuple[float, ...] = (_subject(asked, network).speed.seconds(cost.work),)
    else:
        seconds = asked.measure(timed).batch_seconds
    return predict_duration(
        seconds,
        measured_batch=timed,
        batch_size=train.batch_size,
        accumulate=train.accumulate,
        pictures=pictures,
        epochs=train.epochs,
    )

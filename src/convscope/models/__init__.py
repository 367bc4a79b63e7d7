"""Networks: the table of those known by name, and how one is built for a data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import nn

from convscope.config import ModelConfig
from convscope.errors import UsageError, unknown_name
from convscope.models.auto import build_auto
from convscope.models.blocks import InputShape
from convscope.models.cats_cnn import build_cats_cnn
from convscope.models.cifar_base import build_cifar_base
from convscope.models.cnn import build_cnn, build_cnn_dropout
from convscope.models.cnn_small import build_cnn_small
from convscope.models.lenet5 import build_lenet5
from convscope.models.mlp import build_mlp


@dataclass(frozen=True)
class ModelSpec:
    """A network by name.

    Args:
        build: takes (C, H, W) of a picture and the number of classes K; returns a module that maps float32
            [B, C, H, W] to logits [B, K].
        native_shape, native_classes: the input and number of classes its published parameter count is for.
        train: TrainConfig fields that suit this network, where they differ from the defaults.
        sized_input: whether pictures of other sources are brought to `native_shape` unless the user says otherwise.
    """

    description: str
    build: Callable[[InputShape, int], nn.Module]
    native_shape: InputShape
    native_classes: int = 10
    train: Mapping[str, float | int | str] = field(default_factory=dict)
    sized_input: bool = False


MODELS: dict[str, ModelSpec] = {
    "auto": ModelSpec(
        "our default: small and quick",
        build_auto,
        (1, 28, 28),
        train={"batch_size": 256, "lr": 0.01, "momentum": 0.7, "beta2": 0.9},
    ),
    "mlp": ModelSpec("N1: two-layer perceptron", build_mlp, (1, 28, 28)),
    "cnn-small": ModelSpec("N2: two 5x5 convolutions, dropout2d", build_cnn_small, (1, 28, 28)),
    "cnn": ModelSpec("N3: two 3x3 convolutions, dense 128", build_cnn, (1, 28, 28)),
    "cnn-dropout": ModelSpec("N4: N3 with valid padding and dropout", build_cnn_dropout, (1, 28, 28)),
    "lenet5": ModelSpec("N5: LeNet-5, sigmoid, average pooling", build_lenet5, (1, 28, 28), train={"lr": 0.004}),
    "cats-cnn": ModelSpec(
        "N7: gray photos, one output unit for two classes", build_cats_cnn, (1, 200, 200), 2, sized_input=True
    ),
    "cifar-base": ModelSpec("N8: four convolutions without pooling", build_cifar_base, (3, 32, 32)),
}


def build_model(config: ModelConfig, input_shape: InputShape, num_classes: int) -> nn.Module:
    """Return a new network with random weights (from torch's global generator) for pictures of this shape.

    Raises:
        UsageError: the name is unknown, or the pictures are too small for the network.
    """
    spec = find_model(config.name)
    if num_classes < 2:
        raise UsageError(f"{num_classes} class is nothing to tell apart; the data need at least two")
    try:
        return spec.build(input_shape, num_classes)
    except UsageError as error:
        raise UsageError(f"model {config.name!r}: {error}") from error


def find_model(name: str) -> ModelSpec:
    """Return the table's entry of this name.

    Raises:
        UsageError: there is none; lists those there are.
    """
    if name not in MODELS:
        raise unknown_name("model", name, MODELS)
    return MODELS[name]


def count_parameters(model: nn.Module) -> int:
    """Return the number of trainable and frozen parameters, shared ones once."""
    return sum(p.numel() for p in model.parameters())

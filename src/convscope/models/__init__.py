"""Networks: the table of those known by name, and how one is built for a data set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from convscope.config import STACK, ModelConfig
from convscope.errors import UsageError, unknown_name
from convscope.models import cifar_inception, cifar_residual
from convscope.models.alexnet_2012 import build_alexnet_2012
from convscope.models.auto import build_auto
from convscope.models.blocks import InputShape
from convscope.models.cats_cnn import build_cats_cnn
from convscope.models.cifar_base import build_cifar_base
from convscope.models.cnn import build_cnn, build_cnn_dropout
from convscope.models.cnn_small import build_cnn_small
from convscope.models.head import set_square_root_head
from convscope.models.lenet5 import build_lenet5
from convscope.models.mlp import build_mlp
from convscope.models.pretrained import load_trained
from convscope.models.quick import build_quick, build_quick_wide
from convscope.models.shapes import shapes_only
from convscope.models.spec import ModelSpec, PublishedPreprocessing
from convscope.models.stack import build_stack, parse_stack
from convscope.models.zoo import build_network_shapes, find_network, find_zoo_model, near_names
from convscope.progress import OnProgress, ignore_progress


def _cifar(description: str, build: Callable[[InputShape, int], nn.Module]) -> ModelSpec:
    """Return the entry of a network with N8's large dense layer, on which Adam's usual 0.001 makes the loss jump."""
    return ModelSpec(description, build, (3, 32, 32), train={"lr": 3e-4})


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
    "alexnet-2012": ModelSpec(
        "N6: AlexNet of 2012, two columns",
        build_alexnet_2012,
        (3, 224, 224),
        1000,
        train={"lr": 3e-4},
        sized_input=True,
    ),
    "cats-cnn": ModelSpec(
        "N7: gray photos, one output unit for two classes", build_cats_cnn, (1, 200, 200), 2, sized_input=True
    ),
    "cifar-base": _cifar("N8: four convolutions without pooling", build_cifar_base),
    "cifar-inception": _cifar("N9: N8 with inception blocks", cifar_inception.build_cifar_inception),
    "cifar-inception-eqparams": _cifar("N9, N8's parameters", cifar_inception.build_equal_parameters),
    "cifar-inception-eqmacs": _cifar("N9, N8's operations", cifar_inception.build_equal_macs),
    "cifar-residual": _cifar("N10: N8 with residual blocks", cifar_residual.build_cifar_residual),
    "cifar-residual-eqparams": _cifar("N10, N8's parameters", cifar_residual.build_equal_parameters),
    "cifar-residual-eqmacs": _cifar("N10, N8's operations", cifar_residual.build_equal_macs),
    "quick": ModelSpec("learns small photos in a minute", build_quick, (3, 32, 32)),
    "quick-wide": ModelSpec("quick, with more maps", build_quick_wide, (3, 32, 32)),
}


def build_model(
    config: ModelConfig, input_shape: InputShape, num_classes: int, on_progress: OnProgress = ignore_progress
) -> nn.Module:
    """Return a new network for pictures of this shape.

    Its weights are random (from torch's global generator) or trained ones, as the configuration says.

    Raises:
        UsageError: the name is unknown, or the pictures are too small for the network.
        WeightsError: the trained weights are missing or do not fit.
    """
    build = _builder(config)
    if num_classes < 2:
        raise UsageError(f"{num_classes} class is nothing to tell apart; the data need at least two")
    try:
        network = build(input_shape, num_classes)
    except UsageError as error:
        raise UsageError(f"model {config.name!r}: {error}") from error
    if config.pretrained or config.weights is not None:
        published = None if config.name in MODELS else find_network(config.name)
        network = load_trained(network, config, published, input_shape, num_classes, on_progress)
    return set_square_root_head(network) if config.head == "square-root" else network


def build_shapes(config: ModelConfig, input_shape: InputShape, num_classes: int | None) -> nn.Module:
    """Return the network with the shapes of its weights and no numbers in them, which takes no memory.

    Whether the pictures suit a network of torchvision or timm shows when it is traced; those that need numbers to be
    built get them.

    Args:
        num_classes: None for a stack that need not end in logits.

    Raises:
        UsageError: the name is unknown, or the pictures are too small for the network.
    """
    published = None if config.stack is not None or config.name in MODELS else find_network(config.name)
    if published is not None and num_classes is not None:
        network = build_network_shapes(published, input_shape, num_classes)
        return set_square_root_head(network) if config.head == "square-root" else network
    with torch.device("meta"), shapes_only():
        if config.stack is not None:
            return build_stack(parse_stack(config.stack), input_shape, num_classes)
        assert num_classes is not None
        return build_model(replace(config, pretrained=False, weights=None), input_shape, num_classes)


def find_model(name: str) -> ModelSpec:
    """Return the table's entry of this name, or that of a network of torchvision or timm.

    Raises:
        UsageError: there is none; lists our own and the nearest of the others.
    """
    found = MODELS.get(name) or find_zoo_model(name)
    if found is None:
        where = "of torchvision and timm see for example `convscope models 'resnet*'`"
        raise unknown_name("model", name, MODELS, others=near_names(name), where=where)
    return found


def _builder(config: ModelConfig) -> Callable[[InputShape, int], nn.Module]:
    if config.stack is not None:
        return partial(build_stack, parse_stack(config.stack))
    return find_model(config.name).build


def published_preprocessing(config: ModelConfig) -> PublishedPreprocessing | None:
    """Return what the trained weights that a configuration starts from expect of a picture; None if nobody says."""
    if config.name == STACK or not (config.pretrained or config.weights is not None):
        return None
    return find_model(config.name).preprocessing


def count_parameters(model: nn.Module) -> int:
    """Return the number of trainable and frozen parameters, shared ones once."""
    return sum(p.numel() for p in model.parameters())

"""Networks: the table of those known by name, and how one is built for a data set."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from convscope.config import STACK, ModelConfig
from convscope.errors import UsageError, unknown_name
from convscope.models.meta import shapes_only
from convscope.models.networks import cifar, plain
from convscope.models.networks.alexnet_2012 import build_alexnet_2012
from convscope.models.networks.auto import build_auto
from convscope.models.networks.lenet5 import build_lenet5
from convscope.models.networks.quick import build_quick, build_quick_wide
from convscope.models.spec import InputShape, ModelSpec, PublishedPreprocessing
from convscope.models.stack.notation import build_stack, parse_stack
from convscope.models.surgery.head import set_flattened_head, set_square_root_head
from convscope.models.zoo.catalog import build_network_shapes, find_network, find_zoo_spec, near_names
from convscope.models.zoo.pretrained import load_trained
from convscope.progress import OnProgress, ignore_progress


def _gray(description: str, layers: str) -> ModelSpec:
    return ModelSpec(description, partial(plain.build_plain, layers), (1, 28, 28))


def _cifar(
    description: str, layers: Callable[[int, int], Sequence[nn.Module]], widths: cifar.Widths = cifar.WIDTHS
) -> ModelSpec:
    """Return the entry of a network with N8's large dense layer, on which Adam's usual 0.001 makes the loss jump.

    Args:
        widths: at N8's cost they are N8's times one factor, rounded, so that the whole network, dense layer included,
            costs what N8 does for 32x32 RGB and ten classes: of all factors the nearest, within 1 %.
    """
    return ModelSpec(description, partial(cifar.build_cifar, layers, widths), (3, 32, 32), train={"lr": 3e-4})


MODELS: dict[str, ModelSpec] = {
    "auto": ModelSpec(
        "our default: small and quick",
        build_auto,
        (1, 28, 28),
        train={"batch_size": 256, "lr": 0.01, "momentum": 0.7, "beta2": 0.9},
    ),
    "mlp": _gray("N1: two-layer perceptron", plain.MLP),
    "cnn-small": _gray("N2: two 5x5 convolutions, dropout2d", plain.CNN_SMALL),
    "cnn": _gray("N3: two 3x3 convolutions, dense 128", plain.CNN),
    "cnn-dropout": _gray("N4: N3 with valid padding and dropout", plain.CNN_DROPOUT),
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
        "N7: gray photos, one output unit for two classes", plain.build_cats_cnn, (1, 200, 200), 2, sized_input=True
    ),
    "cifar-base": _cifar("N8: four convolutions without pooling", cifar.plain),
    "cifar-inception": _cifar("N9: N8 with inception blocks", cifar.inception),
    "cifar-inception-eqparams": _cifar("N9, N8's parameters", cifar.inception, (67, 67, 134)),
    "cifar-inception-eqmacs": _cifar("N9, N8's operations", cifar.inception, (95, 95, 189)),
    "cifar-residual": _cifar("N10: N8 with residual blocks", cifar.residual),
    "cifar-residual-eqparams": _cifar("N10, N8's parameters", cifar.residual, (56, 56, 113)),
    "cifar-residual-eqmacs": _cifar("N10, N8's operations", cifar.residual, (38, 38, 75)),
    "quick": ModelSpec("learns small photos in a minute", build_quick, (3, 32, 32)),
    "quick-wide": ModelSpec("quick, with more channels", build_quick_wide, (3, 32, 32)),
}


def build_model(
    config: ModelConfig, input_shape: InputShape, num_classes: int, on_progress: OnProgress = ignore_progress
) -> nn.Module:
    """Return a new network for images of this shape.

    Its weights are trained ones if the configuration asks for them, else random (from torch's global generator).

    Raises:
        UsageError: the name is unknown, or the images are too small for the network.
        WeightsError: the trained weights are missing or do not fit.
    """
    build = find_model(config.name).build if config.stack is None else partial(build_stack, parse_stack(config.stack))
    if num_classes < 2:
        raise UsageError(f"{num_classes} class is not enough; the data need at least two")
    try:
        network = build(input_shape, num_classes)
    except UsageError as error:
        raise UsageError(f"model {config.name!r}: {error}") from error
    if config.pretrained or config.weights is not None:
        published = None if config.name in MODELS else find_network(config.name)
        network = load_trained(network, config, published, input_shape, num_classes, on_progress)
    return _with_head(network, config, input_shape, num_classes)


def build_shapes(config: ModelConfig, input_shape: InputShape, num_classes: int | None) -> nn.Module:
    """Return the network on the meta device, where its weights take no memory.

    Tracing shows whether the images suit a network of torchvision or timm. The few that cannot be built on the meta
    device get random weights.

    Args:
        num_classes: None for a stack that need not end in logits.

    Raises:
        UsageError: the name is unknown, or the images are too small for the network.
    """
    published = None if config.stack is not None or config.name in MODELS else find_network(config.name)
    if published is not None and num_classes is not None:
        network = build_network_shapes(published, input_shape, num_classes)
        return _with_head(network, config, input_shape, num_classes)
    with torch.device("meta"), shapes_only():
        if config.stack is not None:
            return build_stack(parse_stack(config.stack), input_shape, num_classes)
        assert num_classes is not None
        return build_model(replace(config, pretrained=False, weights=None), input_shape, num_classes)


def _with_head(network: nn.Module, config: ModelConfig, input_shape: InputShape, num_classes: int) -> nn.Module:
    if config.head == "flatten":
        return set_flattened_head(network, input_shape, num_classes)
    return set_square_root_head(network) if config.head == "square-root" else network


def find_model(name: str) -> ModelSpec:
    """Return the network of this name: one of our own, or of torchvision or timm.

    Raises:
        UsageError: there is none; the message lists our own and the most similar names of the others.
    """
    found = MODELS.get(name) or find_zoo_spec(name)
    if found is None:
        where = "of torchvision and timm see for example `convscope models 'resnet*'`"
        raise unknown_name("model", name, MODELS, others=near_names(name), where=where)
    return found


def published_preprocessing(config: ModelConfig) -> PublishedPreprocessing | None:
    """Return the preprocessing that the trained weights of a configuration expect; None if it is not known."""
    if config.name == STACK or not (config.pretrained or config.weights is not None):
        return None
    return find_model(config.name).preprocessing


def count_parameters(model: nn.Module) -> int:
    """Return the number of trainable and frozen parameters, shared ones once."""
    return sum(p.numel() for p in model.parameters())

"""N1 to N10 layer by layer, against the definitions of the write-ups: equal sums of parameters prove nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from convscope.config import ModelConfig
from convscope.models import MODELS, build_model, count_parameters

Layer = tuple[str, dict[str, Any], tuple[int, ...], int]
"""Kind, attributes, output shape of one image, parameters of its own."""


def conv(ins: int, maps: int, kernel: int, side: int, *, padding: int = 0, stride: int = 1, groups: int = 1) -> Layer:
    known = {"kernel": kernel, "stride": stride, "padding": padding, "groups": groups}
    return "Conv2d", known, (maps, side, side), maps * ins // groups * kernel**2 + maps


def pool(maps: int, side: int, *, kernel: int = 2, kind: str = "MaxPool2d") -> Layer:
    return kind, {"kernel": kernel, "stride": 2, "padding": 0}, (maps, side, side), 0


def linear(ins: int, outs: int) -> Layer:
    return "Linear", {}, (outs,), ins * outs + outs


def flatten(size: int) -> Layer:
    return "Flatten", {}, (size,), 0


def relu(*shape: int) -> Layer:
    return "ReLU", {}, shape, 0


def sigmoid(*shape: int) -> Layer:
    return "Sigmoid", {}, shape, 0


def dropout(*shape: int, p: float = 0.5, kind: str = "Dropout") -> Layer:
    return kind, {"p": p}, shape, 0


def response_norm(maps: int, side: int) -> Layer:
    known = {"size": 5, "alpha": 5 * 1e-4, "beta": 0.75, "k": 2.0}  # torch divides alpha by the size
    return "LocalResponseNorm", known, (maps, side, side), 0


def mnist_cnn(padding: int, first: int, second: int) -> list[Layer]:
    """Return N3 and N4 up to the dense layer of 128; `first` and `second` are the sides of the convolutions' maps."""
    size = 64 * (second // 2) ** 2
    return [
        conv(1, 32, 3, first, padding=padding),
        relu(32, first, first),
        pool(32, first // 2),
        conv(32, 64, 3, second, padding=padding),
        relu(64, second, second),
        pool(64, second // 2),
        flatten(size),
        linear(size, 128),
        relu(128),
    ]


def same(ins: int, maps: int, kernel: int) -> list[Layer]:
    """Return a convolution with same padding on the 32x32 of CIFAR-10, and its ReLU."""
    return [conv(ins, maps, kernel, 32, padding=kernel // 2), relu(maps, 32, 32)]


def cifar(middle: Iterable[Layer], maps: int = 128) -> list[Layer]:
    """Return N8 with these layers in place of its three convolutions of 3x3."""
    size = maps * 32 * 32
    norm: Layer = ("BatchNorm2d", {}, (maps, 32, 32), 2 * maps)
    end = [norm, dropout(maps, 32, 32, p=0.3), flatten(size), linear(size, 10)]
    return [*same(3, 32, 5), *middle, *end]


def inception(ins: int, maps: int) -> list[Layer]:
    """Return 1x1, 3x3, 5x5 and pool branches, with 1x1 reductions before the larger windows, and what joins them."""
    ones, fives = maps // 4, maps // 8
    threes = maps - ones - 2 * fives
    return [
        *same(ins, ones, 1),
        *same(ins, threes * 3 // 4, 1),
        *same(threes * 3 // 4, threes, 3),
        *same(ins, fives // 2, 1),
        *same(fives // 2, fives, 5),
        ("MaxPool2d", {"kernel": 3, "stride": 1, "padding": 1}, (ins, 32, 32), 0),
        *same(ins, fives, 1),
        ("InceptionBlock", {}, (maps, 32, 32), 0),
    ]


def residual(ins: int, maps: int) -> list[Layer]:
    """Return two 3x3 convolutions, the shortcut (1x1 where the channels change) and what adds them."""
    first, last = same(ins, maps, 3), same(maps, maps, 3)[:1]
    shortcut = same(ins, maps, 1)[:1] if ins != maps else [("Identity", {}, (ins, 32, 32), 0)]
    return [*first, *last, *shortcut, ("ResidualBlock", {}, (maps, 32, 32), 0)]


def blocks(block: Any, a: int, b: int, c: int) -> list[Layer]:  # noqa: ANN401
    return cifar([*block(32, a), *block(a, b), *block(b, c)], c)


WRITTEN: dict[str, list[Layer]] = {
    "mlp": [flatten(784), linear(784, 128), relu(128), linear(128, 10)],
    "cnn-small": [
        conv(1, 10, 5, 24),
        pool(10, 12),
        relu(10, 12, 12),
        conv(10, 20, 5, 8),
        dropout(20, 8, 8, kind="Dropout2d"),
        pool(20, 4),
        relu(20, 4, 4),
        flatten(320),
        linear(320, 10),
    ],
    "cnn": [*mnist_cnn(1, 28, 14), linear(128, 10)],
    "cnn-dropout": [*mnist_cnn(0, 26, 11), dropout(128), linear(128, 10)],
    "lenet5": [
        conv(1, 6, 5, 28, padding=2),
        sigmoid(6, 28, 28),
        pool(6, 14, kind="AvgPool2d"),
        conv(6, 16, 5, 10),
        sigmoid(16, 10, 10),
        pool(16, 5, kind="AvgPool2d"),
        conv(16, 120, 5, 1),
        sigmoid(120, 1, 1),
        flatten(120),
        linear(120, 84),
        sigmoid(84),
        linear(84, 10),
    ],
    "alexnet-2012": [
        conv(3, 96, 11, 55, stride=4, padding=2),
        relu(96, 55, 55),
        response_norm(96, 55),
        pool(96, 27, kernel=3),
        conv(96, 256, 5, 27, padding=2, groups=2),
        relu(256, 27, 27),
        response_norm(256, 27),
        pool(256, 13, kernel=3),
        conv(256, 384, 3, 13, padding=1),
        relu(384, 13, 13),
        conv(384, 384, 3, 13, padding=1, groups=2),
        relu(384, 13, 13),
        conv(384, 256, 3, 13, padding=1, groups=2),
        relu(256, 13, 13),
        pool(256, 6, kernel=3),
        flatten(9216),
        linear(9216, 4096),
        relu(4096),
        dropout(4096),
        linear(4096, 4096),
        relu(4096),
        dropout(4096),
        linear(4096, 1000),
    ],
    "cats-cnn": [
        conv(1, 32, 3, 198),
        relu(32, 198, 198),
        pool(32, 99),
        conv(32, 64, 3, 97),
        relu(64, 97, 97),
        pool(64, 48),
        flatten(147_456),
        linear(147_456, 32),
        relu(32),
        linear(32, 1),
        ("BinaryLogit", {}, (2,), 0),
    ],
    "cifar-base": cifar([*same(32, 64, 3), *same(64, 64, 3), *same(64, 128, 3)]),
    "cifar-inception": blocks(inception, 64, 64, 128),
    "cifar-inception-eqparams": blocks(inception, 67, 67, 134),
    "cifar-inception-eqmacs": blocks(inception, 95, 95, 189),
    "cifar-residual": blocks(residual, 64, 64, 128),
    "cifar-residual-eqparams": blocks(residual, 56, 56, 113),
    "cifar-residual-eqmacs": blocks(residual, 38, 38, 75),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_layers_are_those_of_the_written_definition(name: str) -> None:
    spec = MODELS[name]
    with torch.device("meta"):  # shapes without values
        network = build_model(ModelConfig(name=name), spec.native_shape, spec.native_classes)
        found = layers_of(network, torch.zeros(1, *spec.native_shape))
    assert relu_first(found) == relu_first(WRITTEN[name])
    assert sum(num_params for *_, num_params in WRITTEN[name]) == count_parameters(network)


def layers_of(network: nn.Module, x: torch.Tensor) -> list[Layer]:
    """Return the layers in the order in which they finish, and the modules that join branches after those."""
    found: list[Layer] = []
    with ExitStack() as hooks:
        for module in network.modules():
            if type(module) is not nn.Sequential:

                def note(module: nn.Module, _: object, output: torch.Tensor) -> None:
                    num_params = sum(p.numel() for p in module.parameters(recurse=False))
                    found.append((type(module).__name__, dict(attributes(module)), tuple(output.shape[1:]), num_params))

                hooks.enter_context(module.register_forward_hook(note))
        network.train()(x)
    return found


def attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    if isinstance(module, nn.Conv2d):
        assert module.dilation == (1, 1)
        kernel, stride = side_of(module.kernel_size), side_of(module.stride)
        padding = kernel // 2 if module.padding == "same" and stride == 1 else side_of(module.padding)
        yield from {"kernel": kernel, "stride": stride, "padding": padding, "groups": module.groups}.items()
    elif isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
        sizes = module.kernel_size, module.stride, module.padding
        yield from zip(("kernel", "stride", "padding"), map(side_of, sizes), strict=True)
    elif isinstance(module, nn.Dropout | nn.Dropout2d):
        yield "p", module.p
    elif isinstance(module, nn.LocalResponseNorm):
        yield from {"size": module.size, "alpha": module.alpha, "beta": module.beta, "k": module.k}.items()


def side_of(size: Any) -> int:  # noqa: ANN401
    """Return the one number of a window's height and width."""
    height, width = size if isinstance(size, tuple) else (size, size)
    assert height == width
    return int(height)


def relu_first(layers: list[Layer]) -> list[Layer]:
    """Return the layers with ReLU before max-pooling, where the two commute; another test proves equal gradients."""
    layers = list(layers)
    for at, (before, after) in enumerate(pairwise(layers)):
        if (before[0], after[0]) == ("MaxPool2d", "ReLU"):
            layers[at : at + 2] = [after, before]
    return [(kind, known, () if kind == "ReLU" else shape, num_params) for kind, known, shape, num_params in layers]

"""The layers of the one-line notation: the words of each, the shape of its output, and its module."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from math import prod
from typing import Any

from torch import nn

from convscope.models.stack.blocks import (
    InceptionBlock,
    MinPool2d,
    ResidualBlock,
    SqueezeExcitation,
    average_pool,
    convolution,
    local_response_norm,
    max_pool,
    separable_convolution,
)
from convscope.models.stack.windows import Padding, output_size

Shape = tuple[int, ...]
"""Of one image, without the batch axis: (C, H, W) of feature maps or (F,) of a vector."""
REQUIRED = object()
"""Stands for the default of a word that has to be written."""


@dataclass(frozen=True)
class Kind:
    """A kind of layer.

    Args:
        example: how it is written, with all its words.
        build: returns the module; takes the input's shape and the values of the words.
        words: name -> default, in the order in which they are written. A number alone is `maps`, `features`, `size`,
            `reduction` or `rate`; `3x3` is `kernel` or `window`, `/2` the `stride`; `valid`, `same`, `full` or `pad 2`
            the `padding`; `dilation 2` and `average` or `max` are as they read.
        output_shape: takes what `build` takes; raises UsageError where a window does not fit into the feature maps.
        needs_maps: whether it works on feature maps [C, H, W] only.
        takes_vector: whether feature maps are flattened before it.
    """

    example: str
    build: Callable[..., nn.Module]
    words: Mapping[str, Any] = field(default_factory=dict)
    output_shape: Callable[..., Shape] = lambda shape, **_: shape
    needs_maps: bool = False
    takes_vector: bool = False


@dataclass(frozen=True)
class Layer:
    """One layer of a stack: its word in LAYERS, and a value for each of the words that its kind takes."""

    word: str
    values: tuple[Any, ...] = ()

    @property
    def kind(self) -> Kind:
        """Return the kind of layer."""
        return LAYERS[self.word]

    def build(self, shape: Shape) -> nn.Module:
        """Return the module for an input of this shape."""
        return self.kind.build(shape, **self._named())

    def output_shape(self, shape: Shape) -> Shape:
        """Return the shape of the output for an input of this shape.

        Raises:
            UsageError: a window does not fit into the feature maps.
        """
        return self.kind.output_shape(shape, **self._named())

    def __str__(self) -> str:
        written = [
            _written(name, value)
            for name, value in self._named().items()
            if value != self.kind.words[name] or name == "rate"  # few remember the default rate
        ]
        return " ".join([self.word, *written])

    def _named(self) -> dict[str, Any]:
        return dict(zip(self.kind.words, self.values, strict=True))


def _slid(shape: Shape, window: tuple[int, int], stride: int | None, padding: Padding, dilation: int = 1) -> Shape:
    """Return (H', W') of a window that slides over feature maps; its stride defaults to its size."""
    return tuple(
        output_size(size, k, stride=stride or k, dilation=dilation, padding=padding)
        for size, k in zip(shape[1:], window, strict=True)
    )


def _convolution(example: str, build: Callable[..., nn.Module]) -> Kind:
    return Kind(
        example,
        lambda shape, maps, kernel, **rest: build(shape[0], maps, kernel, **rest),
        {"maps": REQUIRED, "kernel": REQUIRED, "stride": 1, "padding": "valid", "dilation": 1},
        lambda shape, maps, kernel, **rest: (maps, *_slid(shape, kernel, **rest)),
        needs_maps=True,
    )


def _pooling(example: str, build: Callable[..., nn.Module]) -> Kind:
    return Kind(
        example,
        lambda _, window, **rest: build(window, **rest),
        {"window": REQUIRED, "stride": None, "padding": "valid"},
        lambda shape, **words: (shape[0], *_slid(shape, **words)),
        needs_maps=True,
    )


LAYERS = {
    "conv": _convolution("conv 32 3x3 /2 same dilation 1", convolution),
    "separable": _convolution("separable 128 3x3 /2 same dilation 1", separable_convolution),
    "residual": Kind(
        "residual 64 /2",
        lambda shape, maps, stride: ResidualBlock(shape[0], maps, stride=stride),
        {"maps": REQUIRED, "stride": 1},
        lambda shape, maps, stride: (maps, *_slid(shape, (3, 3), stride, "same")),
        needs_maps=True,
    ),
    "inception": Kind(
        "inception 64",
        lambda shape, maps: InceptionBlock(shape[0], maps),
        {"maps": REQUIRED},
        lambda shape, maps: (maps, *shape[1:]),
        needs_maps=True,
    ),
    "se": Kind(
        "se 16", lambda shape, reduction: SqueezeExcitation(shape[0], reduction), {"reduction": 16}, needs_maps=True
    ),
    "max-pool": _pooling("max-pool 3 /2 same", max_pool),
    "average-pool": _pooling("average-pool 3 /2 same", average_pool),
    "min-pool": _pooling("min-pool 3 /2 same", MinPool2d),
    "global-pool": Kind(
        "global-pool max",
        lambda _, kind: nn.AdaptiveMaxPool2d(1) if kind == "max" else nn.AdaptiveAvgPool2d(1),
        {"kind": "average"},
        lambda shape, **_: (shape[0], 1, 1),
        needs_maps=True,
    ),
    "batch-norm": Kind("batch-norm", lambda shape: (nn.BatchNorm2d if len(shape) == 3 else nn.BatchNorm1d)(shape[0])),
    "lrn": Kind("lrn 5", lambda _, size: local_response_norm(size), {"size": 5}, needs_maps=True),
    "dropout": Kind("dropout 0.5", lambda _, rate: nn.Dropout(rate), {"rate": 0.5}),
    "dropout2d": Kind("dropout2d 0.5", lambda _, rate: nn.Dropout2d(rate), {"rate": 0.5}, needs_maps=True),
    "relu": Kind("relu", lambda _: nn.ReLU()),
    "sigmoid": Kind("sigmoid", lambda _: nn.Sigmoid()),
    "tanh": Kind("tanh", lambda _: nn.Tanh()),
    "flatten": Kind("flatten", lambda _: nn.Flatten(), output_shape=lambda shape: (prod(shape),)),
    "linear": Kind(
        "linear 10",
        lambda shape, features: nn.Linear(prod(shape), features),
        {"features": REQUIRED},
        lambda _, features: (features,),
        takes_vector=True,
    ),
}
"""Every layer by its word."""


def _written(name: str, value: object) -> str:
    """Return the value of a word as it is written."""
    match name, value:
        case "kernel", (height, width):
            return f"{height}x{width}"
        case "window", (height, width):
            return f"{height}" if height == width else f"{height}x{width}"
        case "stride", _:
            return f"/{value}"
        case "padding", int():
            return f"pad {value}"
        case "dilation", _:
            return f"dilation {value}"
        case "rate", float():
            return f"{Decimal(str(value)):f}"  # never 1e-05
    return str(value)

"""The layers that a stack can be written with: the words of each, the shape it gives, and the module it stands for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from decimal import Decimal
from math import prod
from typing import ClassVar, Literal

from torch import nn

from convscope.models.blocks import (
    InceptionBlock,
    MinPool2d,
    ResidualBlock,
    SqueezeExcitation,
    average_pool,
    convolution,
    global_pool,
    local_response_norm,
    max_pool,
    separable_convolution,
)
from convscope.models.windows import Padding, output_size

Shape = tuple[int, ...]
"""Of one picture, without the batch axis: (C, H, W) of maps or (F,) of a vector."""


@dataclass(frozen=True)
class Layer(ABC):
    """One layer of a stack.

    The fields of a layer are its words, in their order: a number alone is `maps`, `features`, `size`, `reduction` or
    `rate`; `3x3` is `kernel` or `window`, `/2` the `stride`; `valid`, `same`, `full` or `pad 2` the `padding`;
    `dilation 2` and `average` or `max` are as they read.

    Args:
        word: what the layer is called in a stack.
        example: how it is written, with all it takes.
        needs_maps: whether it works on maps [C, H, W] only.
        takes_vector: whether maps are flattened before it.
    """

    word: ClassVar[str]
    example: ClassVar[str]
    needs_maps: ClassVar[bool] = False
    takes_vector: ClassVar[bool] = False

    @abstractmethod
    def build(self, shape: Shape) -> nn.Module:
        """Return the module for an input of this shape."""

    def output_shape(self, shape: Shape) -> Shape:
        """Return the shape of the output for an input of this shape.

        Raises:
            UsageError: a window does not fit into the maps.
        """
        return shape

    def __str__(self) -> str:
        written = [self.word]
        for field in fields(self):
            value = getattr(self, field.name)
            if value != field.default or field.name == "rate":  # what share a bare "dropout" drops is hard to recall
                written.append(_word(field.name, value))
        return " ".join(written)


@dataclass(frozen=True)
class Conv(Layer):
    """A convolution."""

    maps: int
    kernel: tuple[int, int]
    stride: int = 1
    padding: Padding = "valid"
    dilation: int = 1
    word = "conv"
    example = "conv 32 3x3 /2 same dilation 1"
    needs_maps = True

    def build(self, shape: Shape) -> nn.Module:
        """Return the convolution."""
        return convolution(
            shape[0], self.maps, self.kernel, stride=self.stride, dilation=self.dilation, padding=self.padding
        )

    def output_shape(self, shape: Shape) -> Shape:
        """Return (maps, H', W')."""
        strides = (self.stride, self.stride)
        return self.maps, *_output_sides(shape, self.kernel, strides, self.padding, dilation=self.dilation)


@dataclass(frozen=True)
class Separable(Conv):
    """A depthwise separable convolution, in place of a convolution of the same words."""

    word = "separable"
    example = "separable 128 3x3 /2 same dilation 1"

    def build(self, shape: Shape) -> nn.Module:
        """Return the two convolutions."""
        return separable_convolution(
            shape[0], self.maps, self.kernel, stride=self.stride, dilation=self.dilation, padding=self.padding
        )


@dataclass(frozen=True)
class Residual(Layer):
    """A residual block, batch norm and ReLU inside."""

    maps: int
    stride: int = 1
    word = "residual"
    example = "residual 64 /2"
    needs_maps = True

    def build(self, shape: Shape) -> nn.Module:
        """Return the block."""
        return ResidualBlock(shape[0], self.maps, stride=self.stride)

    def output_shape(self, shape: Shape) -> Shape:
        """Return (maps, H', W')."""
        return self.maps, *_output_sides(shape, (3, 3), (self.stride, self.stride), "same")


@dataclass(frozen=True)
class Inception(Layer):
    """An inception block, batch norm and ReLU inside."""

    maps: int
    word = "inception"
    example = "inception 64"
    needs_maps = True

    def build(self, shape: Shape) -> nn.Module:
        """Return the block."""
        return InceptionBlock(shape[0], self.maps)

    def output_shape(self, shape: Shape) -> Shape:
        """Return (maps, H, W)."""
        return self.maps, *shape[1:]


@dataclass(frozen=True)
class SqueezeExcite(Layer):
    """Squeeze-and-excitation; the channels are squeezed to one in `reduction`."""

    reduction: int = 16
    word = "se"
    example = "se 16"
    needs_maps = True

    def build(self, shape: Shape) -> nn.Module:
        """Return the block."""
        return SqueezeExcitation(shape[0], self.reduction)


@dataclass(frozen=True)
class MaxPool(Layer):
    """Max-pooling; `stride` defaults to the window."""

    window: tuple[int, int]
    stride: int | None = None
    padding: Padding = "valid"
    word = "max-pool"
    example = "max-pool 3 /2 same"
    needs_maps = True

    def build(self, shape: Shape) -> nn.Module:
        """Return the pooling."""
        return max_pool(self.window, stride=self.stride, padding=self.padding)

    def output_shape(self, shape: Shape) -> Shape:
        """Return (C, H', W')."""
        strides = self.window if self.stride is None else (self.stride, self.stride)
        return shape[0], *_output_sides(shape, self.window, strides, self.padding)


@dataclass(frozen=True)
class AveragePool(MaxPool):
    """Average-pooling."""

    word = "average-pool"
    example = "average-pool 3 /2 same"

    def build(self, shape: Shape) -> nn.Module:
        """Return the pooling."""
        return average_pool(self.window, stride=self.stride, padding=self.padding)


@dataclass(frozen=True)
class MinPool(MaxPool):
    """Min-pooling."""

    word = "min-pool"
    example = "min-pool 3 /2 same"

    def build(self, shape: Shape) -> nn.Module:
        """Return the pooling."""
        return MinPool2d(self.window, stride=self.stride, padding=self.padding)


@dataclass(frozen=True)
class GlobalPool(Layer):
    """Pooling of each map to one value."""

    kind: Literal["average", "max"] = "average"
    word = "global-pool"
    example = "global-pool max"
    needs_maps = True

    def build(self, shape: Shape) -> nn.Module:
        """Return the pooling."""
        return global_pool(self.kind)

    def output_shape(self, shape: Shape) -> Shape:
        """Return (C, 1, 1)."""
        return shape[0], 1, 1


@dataclass(frozen=True)
class BatchNorm(Layer):
    """Batch normalization, of maps or of a vector."""

    word = "batch-norm"
    example = "batch-norm"

    def build(self, shape: Shape) -> nn.Module:
        """Return the normalization."""
        return nn.BatchNorm2d(shape[0]) if len(shape) == 3 else nn.BatchNorm1d(shape[0])


@dataclass(frozen=True)
class LocalResponseNorm(Layer):
    """Local response normalization over `size` channels."""

    size: int = 5
    word = "lrn"
    example = "lrn 5"
    needs_maps = True

    def build(self, shape: Shape) -> nn.Module:
        """Return the normalization."""
        return local_response_norm(self.size)


@dataclass(frozen=True)
class Dropout(Layer):
    """Dropout of single values."""

    rate: float = 0.5
    word = "dropout"
    example = "dropout 0.5"

    def build(self, shape: Shape) -> nn.Module:
        """Return the dropout."""
        return nn.Dropout(self.rate)


@dataclass(frozen=True)
class Dropout2d(Dropout):
    """Dropout of whole maps."""

    word = "dropout2d"
    example = "dropout2d 0.5"
    needs_maps = True

    def build(self, shape: Shape) -> nn.Module:
        """Return the dropout."""
        return nn.Dropout2d(self.rate)


@dataclass(frozen=True)
class ReLU(Layer):
    """max(0, x)."""

    word = "relu"
    example = "relu"

    def build(self, shape: Shape) -> nn.Module:
        """Return the activation."""
        return nn.ReLU()


@dataclass(frozen=True)
class Sigmoid(Layer):
    """1 / (1 + exp(-x))."""

    word = "sigmoid"
    example = "sigmoid"

    def build(self, shape: Shape) -> nn.Module:
        """Return the activation."""
        return nn.Sigmoid()


@dataclass(frozen=True)
class Tanh(Layer):
    """Hyperbolic tangent."""

    word = "tanh"
    example = "tanh"

    def build(self, shape: Shape) -> nn.Module:
        """Return the activation."""
        return nn.Tanh()


@dataclass(frozen=True)
class Flatten(Layer):
    """Maps to one vector."""

    word = "flatten"
    example = "flatten"

    def build(self, shape: Shape) -> nn.Module:
        """Return the flattening."""
        return nn.Flatten()

    def output_shape(self, shape: Shape) -> Shape:
        """Return (C * H * W,)."""
        return (prod(shape),)


@dataclass(frozen=True)
class Linear(Layer):
    """A dense layer; maps before it are flattened."""

    features: int
    word = "linear"
    example = "linear 10"
    takes_vector = True

    def build(self, shape: Shape) -> nn.Module:
        """Return the dense layer."""
        return nn.Linear(prod(shape), self.features)

    def output_shape(self, shape: Shape) -> Shape:
        """Return (features,)."""
        return (self.features,)


_KINDS: Sequence[type[Layer]] = (
    Conv,
    Separable,
    Residual,
    Inception,
    SqueezeExcite,
    MaxPool,
    AveragePool,
    MinPool,
    GlobalPool,
    BatchNorm,
    LocalResponseNorm,
    Dropout,
    Dropout2d,
    ReLU,
    Sigmoid,
    Tanh,
    Flatten,
    Linear,
)
LAYERS: dict[str, type[Layer]] = {kind.word: kind for kind in _KINDS}
"""Every layer by its word."""


def _output_sides(
    shape: Shape, kernel: tuple[int, int], strides: tuple[int, int], padding: Padding, *, dilation: int = 1
) -> tuple[int, int]:
    """Return (H', W') of a window that slides over maps."""
    height, width = (
        output_size(size, k, stride=stride, dilation=dilation, padding=padding)
        for size, k, stride in zip(shape[1:], kernel, strides, strict=True)
    )
    return height, width


def _word(name: str, value: object) -> str:
    """Return a layer's field as it is written."""
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

"""N8 `cifar-base`: four convolutions without pooling and one large dense layer; the frame of N9 and N10."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import nn

from convscope.models.blocks import InputShape, flattened_size

DROPOUT = 0.3
Widths = tuple[int, int, int]
WIDTHS: Widths = (64, 64, 128)
"""Maps of the three 3x3 convolutions, or of what stands in their place."""

PlainOrBlock = Callable[[int, int], Sequence[nn.Module]]
"""Takes the maps that come in and go out, returns the layers that stand in a 3x3 convolution's place."""


def build_cifar_base(input_shape: InputShape, num_classes: int) -> nn.Module:
    """Return the network; 1,442,954 parameters for 32x32 RGB and ten classes.

    The published count leaves room for batch norm after the last three convolutions (2 x 256 parameters) and not
    after the first.
    """
    return build_cifar(_convolution, input_shape, num_classes)


def build_cifar(
    plain_or_block: PlainOrBlock, input_shape: InputShape, num_classes: int, *, widths: Widths = WIDTHS
) -> nn.Module:
    """Return a 5x5 convolution to 32 maps, three layers or blocks of these widths, dropout and the dense layer."""
    ends = (32, *widths)
    features = nn.Sequential(
        nn.Conv2d(input_shape[0], 32, 5, padding="same"),
        nn.ReLU(),
        *(layer for ins, outs in pairwise(ends) for layer in plain_or_block(ins, outs)),
        nn.Dropout(DROPOUT),
        nn.Flatten(),
    )
    return nn.Sequential(*features, nn.Linear(flattened_size(features, input_shape), num_classes))


def _convolution(in_channels: int, out_channels: int) -> list[nn.Module]:
    return [nn.Conv2d(in_channels, out_channels, 3, padding="same"), nn.ReLU(), nn.BatchNorm2d(out_channels)]

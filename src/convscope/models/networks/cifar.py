"""N8 to N10: four convolutions without pooling and one large dense layer; with inception or residual blocks instead."""

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import nn

from convscope.models.spec import InputShape
from convscope.models.stack.blocks import InceptionBlock, ResidualBlock, flattened_size

DROPOUT = 0.3
FIRST_CHANNELS = 32
Widths = tuple[int, int, int]
WIDTHS: Widths = (64, 64, 128)
"""N8's output channels of the three 3x3 convolutions, or of the blocks that replace them."""


def build_cifar(
    layers: Callable[[int, int], Sequence[nn.Module]], widths: Widths, input_shape: InputShape, num_classes: int
) -> nn.Module:
    """Return a 5x5 convolution to 32 channels, three layers or blocks, one batch norm, dropout and the dense layer.

    Of 32x32 RGB and ten classes N8 has 1,442,698 parameters and 256 running statistics; Keras prints their sum.

    Args:
        layers: `plain`, `inception` or `residual`; takes the input and output channels.
        widths: output channels of each of the three.
    """
    features = nn.Sequential(
        nn.Conv2d(input_shape[0], FIRST_CHANNELS, 5, padding="same"),
        nn.ReLU(),
        *(layer for ins, outs in pairwise((FIRST_CHANNELS, *widths)) for layer in layers(ins, outs)),
        nn.BatchNorm2d(widths[-1]),
        nn.Dropout(DROPOUT),
        nn.Flatten(),
    )
    return nn.Sequential(*features, nn.Linear(flattened_size(features, input_shape), num_classes))


def plain(ins: int, outs: int) -> list[nn.Module]:
    """Return the layers of N8."""
    return [nn.Conv2d(ins, outs, 3, padding="same"), nn.ReLU()]


def inception(ins: int, outs: int) -> list[nn.Module]:
    """Return the block of N9, without batch norms: it differs from N8 in nothing but the branches."""
    return [InceptionBlock(ins, outs, norm=False)]


def residual(ins: int, outs: int) -> list[nn.Module]:
    """Return the block of N10, without batch norms: it differs from N8 in nothing but depth and shortcut."""
    return [ResidualBlock(ins, outs, norm=False)]

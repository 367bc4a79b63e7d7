"""N8 `cifar-base`: four convolutions without pooling and one large dense layer."""

from __future__ import annotations

from torch import nn

from convscope.models.blocks import InputShape, flattened_size

DROPOUT = 0.3


def build_cifar_base(input_shape: InputShape, num_classes: int) -> nn.Module:
    """Return the network; 1,442,954 parameters for 32x32 RGB and ten classes.

    The published count leaves room for batch norm after the last three convolutions (2 x 256 parameters) and not
    after the first.
    """
    features = nn.Sequential(
        nn.Conv2d(input_shape[0], 32, 5, padding="same"),
        nn.ReLU(),
        *_convolution(32, 64),
        *_convolution(64, 64),
        *_convolution(64, 128),
        nn.Dropout(DROPOUT),
        nn.Flatten(),
    )
    return nn.Sequential(*features, nn.Linear(flattened_size(features, input_shape), num_classes))


def _convolution(in_channels: int, out_channels: int) -> list[nn.Module]:
    return [nn.Conv2d(in_channels, out_channels, 3, padding="same"), nn.ReLU(), nn.BatchNorm2d(out_channels)]

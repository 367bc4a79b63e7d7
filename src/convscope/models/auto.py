"""`auto`: the network we recommend when none is named; small, quick and accurate on small pictures."""

from __future__ import annotations

from torch import nn

from convscope.models.blocks import InputShape, flattened_size


def build_auto(input_shape: InputShape, num_classes: int) -> nn.Module:
    """Return a network that suits the size of the pictures."""
    channels, height, width = input_shape
    size = min(height, width)
    if size >= 20 and channels == 1:
        layers = [*_unit(channels, 16, 5, padding=0), *_unit(16, 32, 5, padding=0)]
    else:
        layers = _unit(channels, 32, 3, padding=1)
        width_in = 32
        while size >= 12 and width_in < 256:  # halve the map until about 4x4 is left
            layers += _unit(width_in, 2 * width_in, 3, padding=1)
            width_in, size = 2 * width_in, size // 2
    features = nn.Sequential(*layers, nn.Flatten())
    return nn.Sequential(*features, nn.Linear(flattened_size(features, input_shape), num_classes))


def _unit(in_channels: int, out_channels: int, kernel: int, *, padding: int) -> list[nn.Module]:
    """Convolution, pooling, norm, ReLU: in this order norm and ReLU work on a quarter of the map."""
    return [
        nn.Conv2d(in_channels, out_channels, kernel, padding=padding, bias=False),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    ]

"""`auto`: the network we recommend when none is named; small, quick and accurate on small images."""

from torch import nn

from convscope.models.spec import InputShape
from convscope.models.stack.blocks import flattened_size


def build_auto(input_shape: InputShape, num_classes: int) -> nn.Module:
    """Return a network that suits the images.

    Gray images of 20 to 40 pixels, such as MNIST: two 5x5 convolutions with 8 and 32 channels and a dense layer of 128.
    On MNIST eight first channels gave 99.06 % validation accuracy in one epoch (3 seeds), sixteen 99.11 % (6 seeds) and
    took longer. Others: 3x3 convolutions, whose channels double whenever the side is halved, down to about 6x6.
    """
    channels, side = input_shape[0], min(input_shape[1:])
    if channels == 1 and 20 <= side <= 40:
        layers = [*_unit(channels, 8, 5, padding=0), *_unit(8, 32, 5, padding=0), nn.Flatten()]
        head = [nn.Linear(flattened_size(nn.Sequential(*layers), input_shape), 128), nn.ReLU()]
        return nn.Sequential(*layers, *head, nn.Linear(128, num_classes))
    width = 32
    layers = _unit(channels, width, 3, padding=1)
    while side >= 12 and width < 256:
        layers += _unit(width, 2 * width, 3, padding=1)
        width, side = 2 * width, side // 2
    features = nn.Sequential(*layers, nn.Flatten())
    return nn.Sequential(*features, nn.Linear(flattened_size(features, input_shape), num_classes))


def _unit(in_channels: int, out_channels: int, kernel: int, *, padding: int) -> list[nn.Module]:
    """Return convolution, pooling, norm, ReLU: in this order norm and ReLU work on a quarter of the pixels."""
    return [
        nn.Conv2d(in_channels, out_channels, kernel, padding=padding, bias=False),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    ]

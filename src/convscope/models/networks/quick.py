"""`quick` and `quick-wide`: networks that learn small photos within minutes on two CPU cores."""

from functools import partial
from itertools import pairwise

from torch import nn

from convscope.models.spec import InputShape
from convscope.models.stack.blocks import output_shape

Widths = tuple[int, int, int]
WIDTHS: Widths = (24, 48, 96)
WIDE: Widths = (32, 128, 128)
FIRST_KERNEL = 2
NORM_MOMENTUM = 0.4
"""Of the running statistics, which have to follow a run of a few hundred steps."""


def build_quick(input_shape: InputShape, num_classes: int, *, widths: Widths = WIDTHS) -> nn.Module:
    """Return a 2x2 convolution that sees every direction of its patches either way, three blocks, a dense layer.

    A block pools right after its first convolution, so that norm and ReLU work on a quarter of the pixels, and every
    3x3 convolution starts as the identity on its input channels. 167,842 parameters for 32x32 RGB and ten classes,
    498,114 for the wide one; the first layer is meant to be whitened.

    Source: the order of layers and the first layer as in K. Jordan, arXiv:2404.00498, section 3; narrower, with ReLU.
    """
    channels = input_shape[0]
    first = 2 * channels * FIRST_KERNEL**2
    layers: list[nn.Module] = [nn.Conv2d(channels, first, FIRST_KERNEL), nn.ReLU()]
    for ins, outs in pairwise((first, *widths)):
        layers += [_convolution(ins, outs), nn.MaxPool2d(2), *_norm(outs), _convolution(outs, outs), *_norm(outs)]
    features = nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten())
    (width,) = output_shape(features, input_shape)
    return nn.Sequential(*features, nn.Linear(width, num_classes))


build_quick_wide = partial(build_quick, widths=WIDE)


def _convolution(ins: int, outs: int) -> nn.Conv2d:
    layer = nn.Conv2d(ins, outs, 3, padding=1, bias=False)
    nn.init.dirac_(layer.weight.data[:ins])
    return layer


def _norm(channels: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels, momentum=NORM_MOMENTUM), nn.ReLU()]

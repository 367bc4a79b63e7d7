"""N9 `cifar-inception`: N8 with inception blocks in place of its 3x3 convolutions, and the same at N8's cost."""

from __future__ import annotations

from functools import partial

from torch import nn

from convscope.models.blocks import InceptionBlock, InputShape
from convscope.models.cifar_base import WIDTHS, Widths, build_cifar

WIDTHS_EQUAL_PARAMETERS: Widths = (67, 67, 134)
WIDTHS_EQUAL_MACS: Widths = (95, 95, 189)
"""N8's widths times one factor, rounded, so that the whole network, dense layer included, costs what N8 does for 32x32
RGB and ten classes: of all factors the nearest, within 1 %."""


def build_cifar_inception(input_shape: InputShape, num_classes: int, *, widths: Widths = WIDTHS) -> nn.Module:
    """Return the network with blocks that give as many maps as N8's convolutions, or these widths."""
    return build_cifar(lambda ins, outs: [InceptionBlock(ins, outs)], input_shape, num_classes, widths=widths)


build_equal_parameters = partial(build_cifar_inception, widths=WIDTHS_EQUAL_PARAMETERS)
build_equal_macs = partial(build_cifar_inception, widths=WIDTHS_EQUAL_MACS)

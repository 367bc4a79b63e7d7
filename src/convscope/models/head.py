"""The dense layer that a network ends in: what it is given, and a square root in front of it where one is asked for."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from convscope.errors import UsageError
from convscope.models.zoo import find_head

SMALLEST = 1e-6
"""Added under the square root, whose slope at 0 has no end: a network that learns below it would be torn apart."""


class SquareRootLinear(nn.Linear):
    """A dense layer on the signed square roots of its inputs: weight @ (sign(x) * sqrt(abs(x))) + bias.

    Averages of what ReLU left are many small values and a few large ones; their roots are nearer to what a linear
    layer can separate.

    Source: Perronnin, Sánchez, Mensink, "Improving the Fisher kernel for large-scale image classification", 2010.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Return logits [B, K] from features [B, F]."""
        return super().forward(features.sign() * (features.abs() + SMALLEST).sqrt())


def set_square_root_head(network: nn.Module) -> nn.Module:
    """Return the network with square roots before its last layer, whose weights and name stay; changed in place.

    Raises:
        UsageError: it does not end in one dense layer.
    """
    name = find_head(network)
    layer = network.get_submodule(name)
    if type(layer) is not nn.Linear:
        raise UsageError(
            f"the last layer {name!r} is {type(layer).__name__}, not a dense layer; leave out --head square-root"
        )
    with torch.device("meta"):
        head = SquareRootLinear(layer.in_features, layer.out_features, bias=layer.bias is not None)
    head.weight, head.bias = layer.weight, layer.bias
    network.set_submodule(name, head)
    return network


def find_dense_head(network: nn.Module) -> nn.Linear | None:
    """Return the dense layer that a network ends in, None where it ends in something else."""
    try:
        layer = network.get_submodule(find_head(network))
    except UsageError:
        return None
    return layer if isinstance(layer, nn.Linear) else None


def multiplied(layer: nn.Linear, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what a head multiplies with its weights, of the shape of the features it is given."""
    if not isinstance(layer, SquareRootLinear):
        return features
    return np.sign(features) * np.sqrt(np.abs(features) + np.float32(SMALLEST))

"""Parts that several networks share, each once."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor, nn

from convscope.errors import UsageError
from convscope.modes import evaluation_mode

InputShape = tuple[int, int, int]
"""(C, H, W) of one picture."""


class BinaryLogit(nn.Module):
    """Turns one logit z [B, 1] into two, (0, z) [B, 2].

    Cross-entropy over the pair equals binary cross-entropy on z, so a network with a single output unit trains and
    is evaluated like any other.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the pair of logits."""
        return torch.cat([torch.zeros_like(x), x], dim=1)


def output_shape(layers: nn.Module, input_shape: InputShape) -> tuple[int, ...]:
    """Return the shape of one output without the batch axis, found by running the layers on one black picture.

    Raises:
        UsageError: the picture is too small for the layers.
    """
    try:
        with evaluation_mode(layers), torch.no_grad():
            return tuple(layers(torch.zeros(1, *input_shape)).shape[1:])
    except RuntimeError as error:
        shape = "x".join(map(str, input_shape))
        raise UsageError(
            f"pictures of {shape} (channels x height x width) are too small for this network; "
            "use a larger --image-size or another --model"
        ) from error


def flattened_size(layers: nn.Module, input_shape: InputShape) -> int:
    """Return the number of values that a flatten after these layers gives for one picture."""
    return prod(output_shape(layers, input_shape))

"""Multiply-accumulate operations of a network, counted from the shapes of its layers' outputs."""

from contextlib import ExitStack

import torch
from torch import Tensor, nn

from convscope.models.eval_mode import eval_mode

COUNTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
"""The layers whose operations are counted."""


def count_macs(model: nn.Module, input_shape: tuple[int, int, int]) -> int:
    """Return the multiply-accumulate operations of convolutions and dense layers for one image, forward."""
    return sum(macs for macs, _ in _layer_macs(model, input_shape))


def count_training_flops(model: nn.Module, input_shape: tuple[int, int, int]) -> int:
    """Return the floating-point operations of convolutions and dense layers for one image, forward and backward.

    The backward pass of a layer repeats its forward work once for the weights, unless they are frozen, and once for
    the input, if that needs a gradient. The image needs none.
    """
    return 2 * sum(macs * (1 + gradients) for macs, gradients in _layer_macs(model, input_shape))


def layer_macs(layer: nn.Module, output: Tensor) -> int:
    """Return the operations of one call of a layer for one image; 0 unless it is a convolution or a dense layer.

    Args:
        output: of the layer, [B, ...].
    """
    if not isinstance(layer, COUNTED):
        return 0
    positions = output[0].numel() // layer.weight.shape[0]  # where each output channel is computed
    return layer.weight.numel() * positions


def _layer_macs(model: nn.Module, input_shape: tuple[int, int, int]) -> list[tuple[int, int]]:
    """Return (MACs for one image, number of gradients: of weights and of input) for each call of a layer.

    The model runs on one black image. torch's own FlopCounterMode gives the same numbers, as the tests check, but takes
    three seconds to import.
    """
    found: list[tuple[int, int]] = []

    def record(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(layer.weight, Tensor)
        found.append((layer_macs(layer, output), layer.weight.requires_grad + inputs[0].requires_grad))

    with ExitStack() as hooks, eval_mode(model):
        for module in model.modules():
            if isinstance(module, COUNTED):
                hooks.enter_context(module.register_forward_hook(record))
        model(torch.zeros(1, *input_shape, device=next(model.parameters()).device))
    return found

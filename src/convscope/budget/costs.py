"""Operations of a network, counted on the shapes its layers really see."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from convscope.modes import evaluation_mode

COUNTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
"""The layers whose operations count."""


def count_macs(model: nn.Module, input_shape: tuple[int, int, int]) -> int:
    """Return the multiply-accumulate operations of convolutions and dense layers for one picture, forward."""
    return sum(macs for macs, _ in _layer_macs(model, input_shape))


def count_training_flops(model: nn.Module, input_shape: tuple[int, int, int]) -> int:
    """Return the floating-point operations of convolutions and dense layers for one picture, forward and backward.

    Backward costs a layer its forward work once for the weights, unless they are frozen, and once more for its input,
    where a gradient is needed: not for the picture itself.
    """
    return 2 * sum(macs * (1 + gradients) for macs, gradients in _layer_macs(model, input_shape))


def layer_macs(layer: nn.Module, output: Tensor) -> int:
    """Return the operations of one call of a layer for one picture; 0 for what is neither convolution nor dense.

    Args:
        output: of the layer, [B, ...].
    """
    if not isinstance(layer, COUNTED):
        return 0
    places = output[0].numel() // layer.weight.shape[0]  # how often every output channel is computed for one picture
    return layer.weight.numel() * places


def _layer_macs(model: nn.Module, input_shape: tuple[int, int, int]) -> list[tuple[int, int]]:
    """Return (MACs for one picture, gradients that are needed of weights and input) for each call of a layer.

    The model is run on one black picture and left as it was. torch's own FlopCounterMode gives the same figures (the
    tests compare them) and takes three seconds to import.
    """
    found: list[tuple[int, int]] = []

    def record(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(layer.weight, Tensor)
        found.append((layer_macs(layer, output), layer.weight.requires_grad + inputs[0].requires_grad))

    layers = [module for module in model.modules() if isinstance(module, COUNTED)]
    handles = [layer.register_forward_hook(record) for layer in layers]
    try:
        with evaluation_mode(model):
            model(torch.zeros(1, *input_shape, device=next(model.parameters()).device))
    finally:
        for handle in handles:
            handle.remove()
    return found

"""N1 `mlp`: the two-layer perceptron that convolutions are compared with."""

from __future__ import annotations

from math import prod

from torch import nn

from convscope.models.blocks import InputShape


def build_mlp(input_shape: InputShape, num_classes: int) -> nn.Module:
    """Flatten, linear 128, ReLU, linear K; 101,770 parameters for 28x28 gray and ten classes."""
    return nn.Sequential(nn.Flatten(), nn.Linear(prod(input_shape), 128), nn.ReLU(), nn.Linear(128, num_classes))

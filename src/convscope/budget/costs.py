"""Operations of a network, counted on the operations it really runs."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_macs(model: nn.Module, input_shape: tuple[int, int, int]) -> int:
    """Return the multiply-accumulate operations of convolutions and matrix products for one picture, forward."""
    return _count_flops(model, input_shape, backward=False) // 2


def count_training_flops(model: nn.Module, input_shape: tuple[int, int, int]) -> int:
    """Return the floating-point operations of convolutions and matrix products for one picture, forward and backward.

    The gradient with respect to the picture is not needed and not counted.
    """
    return _count_flops(model, input_shape, backward=True)


def _count_flops(model: nn.Module, input_shape: tuple[int, int, int], *, backward: bool) -> int:
    batch = 2  # batch norm in training mode needs more than one value
    shadow = copy.deepcopy(model).to("meta").train(backward)  # meta tensors have shapes and no memory
    with FlopCounterMode(display=False) as counter:
        x = torch.empty(batch, *input_shape, device="meta")
        if backward:
            F.cross_entropy(shadow(x), torch.zeros(batch, dtype=torch.int64, device="meta")).backward()  # type: ignore[no-untyped-call]
        else:
            with torch.no_grad():
                shadow(x)
    return int(counter.get_total_flops()) // batch

"""A part of a network as a plain function of arrays, whatever engine computes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Forward:
    """A way to run a module.

    Args:
        run: takes the module's input, float32 [B, ...], and returns its output, float32 [B, ...].
        engine: what computes it, with versions; results are kept under it, as engines differ in the last digits.
    """

    run: Callable[[Floats], Floats]
    engine: str


def torch_forward(module: nn.Module, device: torch.device) -> Forward:
    """Return a module as torch runs it, in evaluation mode."""

    def run(x: Floats) -> Floats:
        with torch.inference_mode():
            order = torch.channels_last if x.ndim == 4 else torch.preserve_format
            return np.asarray(module(torch.from_numpy(x).to(device, memory_format=order)).float().cpu().numpy())

    module.eval()
    return Forward(run, f"torch {torch.__version__} on {device.type}")

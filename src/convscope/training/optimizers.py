"""Optimizers by name."""

from __future__ import annotations

import torch
from torch import nn

from convscope.config import TrainConfig


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Return the configured optimizer over the trainable parameters.

    Fused: one kernel for all parameters of a device, 2 to 3 times faster on small networks."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    momentum = 0.9 if config.momentum is None else config.momentum
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, lr=config.lr, momentum=momentum, weight_decay=config.weight_decay, fused=True
        )
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, lr=config.lr, betas=(momentum, config.beta2), weight_decay=config.weight_decay, fused=True)

"""Optimizers by name: torch's own fused kernels over state that lies open.

They compute what torch.optim computes (the tests compare them). Its classes are left out because they import torch's
compiler at the first step, which takes two to three seconds.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from convscope.config import TrainConfig

EPS = 1e-8


class Optimizer:
    """SGD, Adam or AdamW over the trainable parameters of a model.

    Args:
        slots: name -> one tensor a parameter, in the memory order of the parameter; all there is to save.
        steps_done: changes of the weights so far, float32 [], on the device; for Adam's bias correction.
        lr: learning rate of the next step; the caller sets it.
        param_groups: the parameters in the form that torch.amp.GradScaler looks for.
    """

    def __init__(self, model: nn.Module, config: TrainConfig) -> None:
        self.config = config
        self.lr = config.lr
        self.parameters: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
        self.param_groups = [{"params": self.parameters}]
        self.momentum = 0.9 if config.momentum is None else config.momentum
        self.steps_done = torch.zeros((), device=self.parameters[0].device)
        self.slots: dict[str, list[Tensor]] = {}
        if config.optimizer != "sgd":
            self.slots["exp_avg"] = [torch.zeros_like(p) for p in self.parameters]
            self.slots["exp_avg_sq"] = [torch.zeros_like(p) for p in self.parameters]
        elif self.momentum:
            self.slots["momentum_buffer"] = [torch.zeros_like(p) for p in self.parameters]

    @torch.no_grad()
    def step(self) -> None:
        """Change the parameters by one step along their gradients; parameters without one stay."""
        parameters, slots = self.parameters, self.slots
        gradients = [p.grad for p in parameters if p.grad is not None]
        if len(gradients) < len(parameters):
            present = [i for i, p in enumerate(parameters) if p.grad is not None]
            parameters = [parameters[i] for i in present]
            slots = {name: [values[i] for i in present] for name, values in slots.items()}
        if self.config.optimizer == "sgd":
            torch._fused_sgd_(
                parameters,
                gradients,
                slots.get("momentum_buffer", []),
                lr=self.lr,
                momentum=self.momentum,
                weight_decay=self.config.weight_decay,
                dampening=0.0,
                nesterov=False,
                maximize=False,
                is_first_step=False,  # the buffers start at zero, which gives the same first step
            )
            return
        self.steps_done += 1
        update = torch._fused_adamw_ if self.config.optimizer == "adamw" else torch._fused_adam_
        update(
            parameters,
            gradients,
            slots["exp_avg"],
            slots["exp_avg_sq"],
            [],
            [self.steps_done] * len(parameters),
            lr=self.lr,
            beta1=self.momentum,
            beta2=self.config.beta2,
            weight_decay=self.config.weight_decay,
            eps=EPS,
            amsgrad=False,
            maximize=False,
        )

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for parameter in self.parameters:
            parameter.grad = None

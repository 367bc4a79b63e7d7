"""Optimizers by name: torch's own fused kernels over state that lies open, and Muon.

They compute what torch.optim computes (the tests compare them). Its classes are left out because they import torch's
compiler at the first step, which takes two to three seconds.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from convscope.config import TrainConfig

EPS = 1e-8
DEFAULT_MOMENTUM = 0.9
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the odd polynomial that brings every singular value near 1, from Jordan's write-up of Muon."""
NEWTON_SCHULZ_ROUNDS = 5
ADAM_RMS = 0.2
"""Root mean square of a usual Adam step at learning rate 1; Muon's steps get the same, so that one rate suits both."""


class Optimizer:
    """SGD, Adam, AdamW or Muon over the trainable parameters of a model.

    Muon moves the weights of convolutions and dense layers but the last, and lets them decay; Adam with a beta1 of 0.9
    moves the rest.

    Args:
        slots: name -> one tensor a parameter, in the memory order of the parameter, empty where it needs none; all
            there is to save.
        steps_done: changes of the weights so far, float32 [], on the device; for Adam's bias correction.
        lr: learning rate of the next step; the caller sets it.
        param_groups: the parameters in the form that torch.amp.GradScaler looks for.
    """

    def __init__(self, model: nn.Module, config: TrainConfig) -> None:
        self.config = config
        self.lr = config.lr
        self.parameters: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
        self.param_groups = [{"params": self.parameters}]
        self.momentum = DEFAULT_MOMENTUM if config.momentum is None else config.momentum
        self.steps_done = torch.zeros((), device=self.parameters[0].device)
        self._one = torch.ones_like(self.steps_done)  # a tensor, for a number would be made one at each step
        weights = [i for i, p in enumerate(self.parameters) if p.ndim > 1]
        self._by_muon = set(weights[:-1]) if config.optimizer == "muon" else set()
        self._by_sgd = set(range(len(self.parameters))) if config.optimizer == "sgd" else set()
        by_adam = set(range(len(self.parameters))) - self._by_muon - self._by_sgd
        with_momentum = self._by_muon | (self._by_sgd if self.momentum else set())
        kept = {"momentum_buffer": with_momentum, "exp_avg": by_adam, "exp_avg_sq": by_adam}
        self.slots = {name: self._zeros(owners) for name, owners in kept.items() if owners}

    def _zeros(self, owners: set[int]) -> list[Tensor]:
        return [torch.zeros_like(p) if i in owners else p.new_empty(0) for i, p in enumerate(self.parameters)]

    @torch.no_grad()
    def step(self) -> None:
        """Change the parameters by one step along their gradients; parameters without one stay."""
        present = [i for i, p in enumerate(self.parameters) if p.grad is not None]
        self.steps_done.add_(self._one)
        if self._by_sgd:
            self._step_sgd(present)
            return
        for i in present:
            if i in self._by_muon:
                self._step_muon(i)
        self._step_adam([i for i in present if i not in self._by_muon])

    def _step_sgd(self, which: list[int]) -> None:
        torch._fused_sgd_(
            [self.parameters[i] for i in which],
            self._gradients(which),
            [self.slots["momentum_buffer"][i] for i in which] if self.momentum else [],
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.config.weight_decay,
            dampening=0.0,
            nesterov=False,
            maximize=False,
            is_first_step=False,  # the buffers start at zero, which gives the same first step
        )

    def _step_adam(self, which: list[int]) -> None:
        update = torch._fused_adam_ if self.config.optimizer == "adam" else torch._fused_adamw_
        update(
            [self.parameters[i] for i in which],
            self._gradients(which),
            [self.slots["exp_avg"][i] for i in which],
            [self.slots["exp_avg_sq"][i] for i in which],
            [],
            [self.steps_done] * len(which),
            lr=self.lr,
            beta1=DEFAULT_MOMENTUM if self._by_muon else self.momentum,
            beta2=self.config.beta2,
            weight_decay=0.0 if self._by_muon else self.config.weight_decay,
            eps=EPS,
            amsgrad=False,
            maximize=False,
        )

    def _step_muon(self, index: int) -> None:
        """Move a parameter along the nearest matrix whose rows (or columns) are orthonormal.

        Source: K. Jordan, Muon, 2024, https://kellerjordan.github.io/posts/muon/, with Nesterov momentum; the size of
        the step as in J. Liu et al., arXiv:2502.16982, section 2.2.
        """
        parameter, average = self.parameters[index], self.slots["momentum_buffer"][index]
        assert parameter.grad is not None
        average.lerp_(parameter.grad, 1 - self.momentum)
        direction = orthogonalize(parameter.grad.lerp(average, self.momentum).flatten(1))
        size = ADAM_RMS * max(direction.shape) ** 0.5
        parameter.mul_(1 - self.lr * self.config.weight_decay)
        parameter.add_(direction.view(parameter.shape), alpha=-self.lr * size)

    def _gradients(self, which: list[int]) -> list[Tensor]:
        return [p.grad for p in (self.parameters[i] for i in which) if p.grad is not None]

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for parameter in self.parameters:
            parameter.grad = None


def orthogonalize(matrix: Tensor) -> Tensor:
    """Return U f(S) V^T for a matrix U S V^T [M, N], with all of f(S) between 0.6 and 1.3 but where S is about zero."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    a, b, c = NEWTON_SCHULZ
    for _ in range(NEWTON_SCHULZ_ROUNDS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.T if tall else x).contiguous()

"""SGD, Adam and AdamW with torch's fused kernels, and Muon.

The results equal those of torch.optim, as the tests check. Its classes are not used because their first step imports
torch's compiler, which takes two to three seconds.
"""

import torch
from torch import Tensor, nn

from convscope.config import TrainConfig
from convscope.torch_internals import fused_adam, fused_adamw, fused_sgd

EPS = 1e-8
MUON_BETA1 = 0.9
"""First beta of the Adam that updates what Muon does not."""
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the odd polynomial that moves each singular value near 1, from Jordan's write-up of Muon."""
NEWTON_SCHULZ_ROUNDS = 5
ADAM_RMS = 0.2
"""Root mean square of a typical Adam step at learning rate 1; Muon's steps are scaled to it, so one rate suits both."""


class Optimizer:
    """SGD, Adam, AdamW or Muon over the trainable parameters of a model.

    Muon updates the weights of convolutions and dense layers except the last, with weight decay; Adam updates the rest
    without.

    Args:
        slots: name -> one tensor per parameter, in its memory order, empty if not needed; together with `steps_done`
            the whole state.
        steps_done: steps so far, float32 [], on the device; for Adam's bias correction.
        lr: learning rate of the next step; set by the caller.
        param_groups: the parameters in the form that torch.amp.GradScaler expects.
    """

    def __init__(self, model: nn.Module, config: TrainConfig) -> None:
        self.config = config
        self.lr = config.lr
        self.parameters: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
        self.param_groups = [{"params": self.parameters}]
        self.momentum = config.momentum_or_default
        self.steps_done = torch.zeros((), device=self.parameters[0].device)
        self._one = torch.ones_like(self.steps_done)  # a tensor, as adding a number would create one in each step
        weights = [i for i, p in enumerate(self.parameters) if p.ndim > 1]
        self._by_muon = set(weights[:-1]) if config.optimizer == "muon" else set()
        self._by_sgd = set(range(len(self.parameters))) if config.optimizer == "sgd" else set()
        by_adam = set(range(len(self.parameters))) - self._by_muon - self._by_sgd
        with_momentum = self._by_muon | (self._by_sgd if self.momentum else set())
        owners_of = {"momentum_buffer": with_momentum, "exp_avg": by_adam, "exp_avg_sq": by_adam}
        self.slots = {name: self._zeros(owners) for name, owners in owners_of.items() if owners}

    def _zeros(self, owners: set[int]) -> list[Tensor]:
        return [torch.zeros_like(p) if i in owners else p.new_empty(0) for i, p in enumerate(self.parameters)]

    @torch.no_grad()
    def step(self) -> None:
        """Update the parameters that have a gradient."""
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
        fused_sgd(
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
        update = fused_adam if self.config.optimizer == "adam" else fused_adamw
        update(
            [self.parameters[i] for i in which],
            self._gradients(which),
            [self.slots["exp_avg"][i] for i in which],
            [self.slots["exp_avg_sq"][i] for i in which],
            [],
            [self.steps_done] * len(which),
            lr=self.lr,
            beta1=MUON_BETA1 if self._by_muon else self.momentum,
            beta2=self.config.beta2,
            weight_decay=0.0 if self._by_muon else self.config.weight_decay,
            eps=EPS,
            amsgrad=False,
            maximize=False,
        )

    def _step_muon(self, index: int) -> None:
        """Update a parameter along the nearest matrix with orthonormal rows or columns.

        Source: K. Jordan, Muon, 2024, https://kellerjordan.github.io/posts/muon/, with Nesterov momentum; step
        size from J. Liu et al., arXiv:2502.16982, section 2.2.
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
    """Return U f(S) V^T for a matrix U S V^T [M, N]; f(S) is between 0.6 and 1.3 unless S is near zero."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    a, b, c = NEWTON_SCHULZ
    for _ in range(NEWTON_SCHULZ_ROUNDS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.T if tall else x).contiguous()

"""One batch through the network and back: the arithmetic that training and its measurement share."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convscope.config import TrainConfig
from convscope.device import autocast_dtype
from convscope.training.optimizers import Optimizer


@dataclass(frozen=True)
class Step:
    """What a step needs beside the batch.

    Args:
        forward: the network, or its segments where activations are checkpointed.
        scaler: keeps float16 gradients from vanishing; not in use for other formats.
        dtype: the reduced format of mixed precision; None computes in float32.
        class_weights: float32 [K] on the device; None: all classes count the same.
    """

    forward: nn.Module
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    dtype: torch.dtype | None
    class_weights: Tensor | None
    label_smoothing: float

    def add_gradients(self, x: Tensor, labels: Tensor, *, share: float = 1.0) -> tuple[Tensor, Tensor]:
        """Add the gradients of `share` of the mean loss; return the whole loss and the logits, both detached.

        A network that does not end in [B, K] has no cross-entropy; the mean of what it returns stands for it.
        """
        with torch.autocast(x.device.type, dtype=self.dtype) if self.dtype else nullcontext():
            logits = self.forward(x)
            loss = self._mean_loss(logits, labels) if logits.dim() == 2 else logits.mean()
        _backward(self.scaler.scale(loss if share == 1 else loss * share))
        return loss.detach(), logits.detach()

    def change_weights(self) -> None:
        """Take one step of the optimizer along the gradients and drop them."""
        if self.scaler.is_enabled():
            self.scaler.step(self.optimizer)  # type: ignore[arg-type]
            self.scaler.update()
        else:
            self.optimizer.step()
        self.optimizer.zero_grad()

    def weight(self, labels: Tensor) -> float:
        """Return how much these pictures count in a mean loss."""
        weights = self.class_weights
        if weights is None:
            return len(labels)
        return float((weights[labels] if labels.ndim == 1 else labels @ weights).sum())

    def _mean_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross-entropy of logits [B, K] for class numbers [B] or shares of the classes [B, K]."""
        weights, smoothing = self.class_weights, self.label_smoothing
        if labels.ndim == 1:
            return F.cross_entropy(logits, labels, weights, label_smoothing=smoothing)
        total = F.cross_entropy(logits, labels, weights, label_smoothing=smoothing, reduction="sum")
        return total / (len(labels) if weights is None else (labels @ weights).sum())


def make_step(
    model: nn.Module,
    forward: nn.Module,
    config: TrainConfig,
    device: torch.device,
    class_weights: Sequence[float] | None = None,
) -> Step:
    """Return the step of a configuration.

    Args:
        model: whose parameters learn.
        forward: see `Step`.
    """
    dtype = autocast_dtype(device, wanted=config.mixed_precision)
    return Step(
        forward=forward,
        optimizer=Optimizer(model, config),
        scaler=torch.amp.GradScaler(device.type, enabled=dtype == torch.float16),
        dtype=dtype,
        class_weights=None if class_weights is None else torch.tensor(class_weights, device=device),
        label_smoothing=config.label_smoothing,
    )


def _backward(loss: Tensor) -> None:
    """Do as `loss.backward()`, which spends 30 microseconds on questions that a scalar loss does not raise."""
    engine = torch.autograd.Variable._execution_engine
    engine.run_backward(
        (loss,), (torch.ones_like(loss),), False, False, (), allow_unreachable=True, accumulate_grad=True
    )

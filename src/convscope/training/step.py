"""Forward and backward pass of one batch, and the update of the weights."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convscope.config import Precision, TrainConfig
from convscope.device import reduced_dtype
from convscope.torch_internals import run_backward
from convscope.training.optimizers import Optimizer


@dataclass(frozen=True)
class Step:
    """What a step needs besides the batch.

    Args:
        forward: the network, or its segments if activations are checkpointed.
        scaler: scales the loss so that float16 gradients do not vanish; disabled for other formats.
        dtype: the 16-bit format of mixed precision; None computes in float32.
        class_weights: float32 [K] on the device; None weights all images the same.
    """

    forward: nn.Module
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    dtype: torch.dtype | None
    class_weights: Tensor | None
    label_smoothing: float

    def add_gradients(self, x: Tensor, labels: Tensor, *, share: float = 1.0) -> tuple[Tensor, Tensor]:
        """Add the gradients of `share` times the mean loss; return the mean loss and the logits, both detached.

        If the network does not return [B, K], the mean of its output is the loss.
        """
        with torch.autocast(x.device.type, dtype=self.dtype) if self.dtype else nullcontext():
            logits = self.forward(x)
            loss = self._mean_loss(logits, labels) if logits.dim() == 2 else logits.mean()
        run_backward(self.scaler.scale(loss if share == 1 else loss * share))
        return loss.detach(), logits.detach()

    def change_weights(self, *, scale: float = 1.0) -> None:
        """Take an optimizer step along `scale` times the gradients, and drop them."""
        if scale != 1:
            for parameter in self.optimizer.parameters:
                if parameter.grad is not None:
                    parameter.grad.mul_(scale)
        if self.scaler.is_enabled():
            self.scaler.step(self.optimizer)  # type: ignore[arg-type]
            self.scaler.update()
        else:
            self.optimizer.step()
        self.optimizer.zero_grad()

    def weight(self, labels: Tensor) -> float:
        """Return the total weight of these images in a mean loss."""
        weights = self.class_weights
        if weights is None:
            return len(labels)
        return float((weights[labels] if labels.ndim == 1 else labels @ weights).sum())

    def _mean_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross-entropy of logits [B, K] for class numbers [B] or class probabilities [B, K]."""
        weights, smoothing = self.class_weights, self.label_smoothing
        if labels.ndim == 1:
            return F.cross_entropy(logits, labels, weights, label_smoothing=smoothing)
        total = F.cross_entropy(logits, labels, weights, label_smoothing=smoothing, reduction="sum")
        return total / (len(labels) if weights is None else (labels @ weights).sum())


def make_step(
    model: nn.Module,
    forward: nn.Module,
    config: TrainConfig,
    precision: Precision,
    device: torch.device,
    class_weights: Sequence[float] | None = None,
) -> Step:
    """Return the step of a configuration; `model` has the parameters, `forward` is described in `Step`."""
    dtype = reduced_dtype(device, precision)
    return Step(
        forward=forward,
        optimizer=Optimizer(model, config),
        scaler=torch.amp.GradScaler(device.type, enabled=dtype == torch.float16),
        dtype=dtype,
        class_weights=None if class_weights is None else torch.tensor(class_weights, device=device),
        label_smoothing=config.label_smoothing,
    )

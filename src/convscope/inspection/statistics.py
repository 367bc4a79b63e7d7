"""Activations and gradients, layer by layer."""

import torch
import torch.nn.functional as F

from convscope.data.batches import make_resident
from convscope.inspection.hooks import recorded_calls
from convscope.inspection.subject import Subject
from convscope.models.eval_mode import eval_mode
from convscope.results.panels import Panel, Table
from convscope.seeds import permutation

MAX_IMAGES = 32
BATCH_BYTES = 4 * 2**20
"""Maximum size of the batch as float32 input of the network."""


def inspect_statistics(subject: Subject) -> tuple[Panel, ...]:
    """Return mean, std and fraction of zeros of every layer's output, and the size of the gradient there.

    Measured in evaluation mode on test images with their labels, or on the image alone with the predicted class as
    label. The gradient is that of one image's cross-entropy; its size is the root mean square.
    """
    x, labels, source = _batch(subject)
    network = subject.network
    with eval_mode(network), torch.enable_grad(), recorded_calls(network) as calls:
        loss = F.cross_entropy(network(x.requires_grad_()), labels, reduction="sum")
        gradients = torch.autograd.grad(loss, [call.output for call in calls], allow_unused=True)
    rows = []
    for call, gradient in zip(calls, gradients, strict=True):
        values = call.output.detach().float()
        size = "–" if gradient is None else f"{float(gradient.float().square().mean().sqrt()):.3g}"
        moments = f"{float(values.mean()):.3g}", f"{float(values.std(unbiased=False)):.3g}"
        zeros = f"{100 * float((values == 0).float().mean()):.1f}\N{NO-BREAK SPACE}%"
        rows.append((call.name, call.kind, " × ".join(map(str, values.shape[1:])), *moments, zeros, size))
    columns = ("Layer", "Kind", "Output", "Mean", "Std", "Zeros", "Gradient")
    return (Table(f"Activations and gradients on {source}", columns, tuple(rows)),)


def _batch(subject: Subject) -> tuple[torch.Tensor, torch.Tensor, str]:
    """Return input [B, C, H, W], labels [B] and a description of the images."""
    if subject.evidence is None:
        label = torch.tensor([subject.predicted], device=subject.device)
        return subject.input(), label, "the image, with the predicted class as label"
    indices = subject.evidence.indices
    number = min(MAX_IMAGES, len(indices), max(1, BATCH_BYTES // (4 * subject.image.size)))
    chosen = indices[permutation(len(indices), "statistics")[:number]]
    data = make_resident(subject.evidence.images, chosen, subject.device)
    return (
        subject.preprocessing.apply(data.images, data.rows),
        data.labels,
        f"{number} images of the {subject.evidence.split} split",
    )

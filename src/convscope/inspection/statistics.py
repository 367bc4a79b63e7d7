"""How large activations and gradients are, layer by layer."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from convscope.data.batches import make_resident
from convscope.inspection.hooks import recorded_calls
from convscope.inspection.subject import Subject
from convscope.modes import evaluation_mode
from convscope.randomness import permutation
from convscope.results import Panel, Table

MAX_PICTURES = 32
BATCH_BYTES = 4 * 2**20
"""The pictures of the batch take at most this, as the network's float32 input."""


def inspect_statistics(subject: Subject) -> tuple[Panel, ...]:
    """Return mean, deviation and share of zeros of every layer's output, and the size of the loss's gradient there.

    Measured in evaluation mode on test pictures with their labels, or on the picture alone with the predicted class.
    The gradient is that of one picture's cross-entropy; its size is the root of its mean square.
    """
    x, labels, source = _batch(subject)
    network = subject.network
    with evaluation_mode(network), torch.enable_grad(), recorded_calls(network) as calls:
        loss = F.cross_entropy(network(x.requires_grad_()), labels, reduction="sum")
        gradients = torch.autograd.grad(loss, [call.output for call in calls], allow_unused=True)
    rows = []
    for call, gradient in zip(calls, gradients, strict=True):
        values = call.output.detach().float()
        size = "–" if gradient is None else f"{float(gradient.float().square().mean().sqrt()):.3g}"
        figures = f"{float(values.mean()):.3g}", f"{float(values.std(unbiased=False)):.3g}"
        zeros = f"{100 * float((values == 0).float().mean()):.1f}\N{NO-BREAK SPACE}%"
        rows.append((call.name, call.kind, " × ".join(map(str, values.shape[1:])), *figures, zeros, size))
    columns = ("Layer", "Kind", "Output", "Mean", "Deviation", "Zeros", "Gradient")
    return (Table(f"Activations and gradients on {source}", columns, tuple(rows)),)


def _batch(subject: Subject) -> tuple[torch.Tensor, torch.Tensor, str]:
    """Return input [B, C, H, W], labels [B] and what the pictures are."""
    if subject.evidence is None:
        label = torch.tensor([subject.predicted], device=subject.device)
        return subject.input(), label, "the picture, as if the predicted class were right"
    indices = subject.evidence.indices
    number = min(MAX_PICTURES, len(indices), max(1, BATCH_BYTES // (4 * subject.picture.size)))
    chosen = indices[permutation(len(indices), "statistics")[:number]]
    data = make_resident(subject.evidence.images, chosen, subject.device)
    return (
        subject.preprocessing.apply(data.pictures, data.rows),
        data.labels,
        f"{number} pictures of the {subject.evidence.part} part",
    )

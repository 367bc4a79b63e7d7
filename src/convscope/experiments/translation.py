"""The effect of a shifted image on a network, with and without pooling."""

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from convscope.comparison.compare import compare_groups
from convscope.data.batches import make_resident
from convscope.experiments.experiment import Finding, Lab, Setting
from convscope.experiments.trials import group_of, measured, run_trials, stack_variants
from convscope.experiments.variants import make_finding, seed_curves, seed_means, verdict_table
from convscope.inspection.hooks import recorded_calls
from convscope.models.eval_mode import eval_mode
from convscope.progress import OnProgress
from convscope.run.prepare import Prepared

SHIFTS = tuple(range(9))
"""Pixels to the right; the digits have a margin of 4 pixels on average."""
JUDGED = 4
"""The shift at which accuracies are compared."""
POOLED = "max-pooling"
STACKS = {
    POOLED: "conv 8 5x5; relu; max-pool 2; conv 16 5x5; relu; max-pool 2; linear 10",
    "no pooling": "conv 8 5x5; relu; conv 16 5x5; relu; linear 10",
    "strided convolution": "conv 8 5x5 /2; relu; conv 16 5x5 /2; relu; linear 10",
    "global max-pooling": "conv 8 5x5; relu; max-pool 2; conv 16 5x5; relu; global-pool max; linear 10",
}
"""All trained on centred digits, without padding: a network that sees the border knows where a feature is."""
CHARTS = {
    "accuracy": ("Test accuracy against shift", "accuracy, %", 100),
    "invariance": ("Invariance: input of the dense layer, compared with that of the unshifted image", "cosine", 1),
    "equivariance": (
        "Equivariance: feature maps of the shifted image, compared with shifted feature maps",
        "cosine",
        1,
    ),
}
"""Measurement -> title, label of the axis, and factor."""


def run(setting: Setting, on_progress: OnProgress) -> Finding:
    """Measure accuracy and features on shifted test images."""
    trials = run_trials(stack_variants(STACKS), setting, on_progress, measure=measure)
    correct = measured(trials, "correct")
    comparison = compare_groups(
        [group_of(name, of_seeds, correct[name][:, JUDGED]) for name, of_seeds in trials.items()],
        pairs=[(POOLED, name) for name in trials if name != POOLED],
    )
    values = {key: measured(trials, key) for key in CHARTS}
    drops = ", ".join(
        f"{name} {100 * of_seeds[:, 0].mean():.1f} to {100 * of_seeds[:, JUDGED].mean():.1f} %"
        for name, of_seeds in values["accuracy"].items()
    )
    curves = tuple(
        seed_curves(
            title,
            "shift to the right, pixels",
            label,
            SHIFTS,
            {name: factor * of_seeds for name, of_seeds in values[key].items()},
        )
        for key, (title, label, factor) in CHARTS.items()
    )
    return make_finding(
        trials,
        comparison,
        first=f"a shift of {JUDGED} pixels changes accuracy ({drops})",
        method="The test images are shifted to the right and filled up with black; lines are means, bands the range "
        "over the seeds.",
        panels=(*curves, verdict_table(comparison, f"Verdicts at a shift of {JUDGED} pixels")),
        numbers={"tested_on": f"images shifted by {JUDGED} pixels", "shifts": list(SHIFTS)}
        | {key: seed_means(of_variants) for key, of_variants in values.items()},
    )


def measure(prepared: Prepared) -> Mapping[str, NDArray[Any]]:
    """Return for every shift the correct predictions, their fraction, and the similarity of features."""
    data = make_resident(prepared.images, prepared.splits.test, prepared.device)
    images = data.select()
    _, unshifted_vector, unshifted_maps = _features(prepared, images)
    stride = total_stride(prepared.network)
    found: dict[str, list[Any]] = {"correct": [], "accuracy": [], "invariance": [], "equivariance": []}
    for pixels in SHIFTS:
        logits, vector, maps = _features(prepared, shift_right(images, pixels, axis=2))
        correct = logits.argmax(1) == data.labels
        steps = round(pixels / stride)  # the first columns of the feature maps see the filling and are left out
        found["correct"].append(correct.numpy())
        found["accuracy"].append(float(correct.float().mean()))
        found["invariance"].append(_cosine(vector, unshifted_vector))
        found["equivariance"].append(_cosine(maps[..., steps:], unshifted_maps[..., : maps.shape[3] - steps]))
    return {name: np.array(values) for name, values in found.items()}


def shift_right(values: Tensor, steps: int, *, axis: int) -> Tensor:
    """Return the values moved by `steps` along an axis and filled up with zeros."""
    moved = torch.zeros_like(values)
    width = values.shape[axis]
    moved.narrow(axis, steps, width - steps).copy_(values.narrow(axis, 0, width - steps))
    return moved


def total_stride(network: nn.Module) -> int:
    """Return the distance in pixels of neighbouring places of the last feature maps."""
    strides = [m.stride for m in network.modules() if isinstance(m, nn.Conv2d | nn.MaxPool2d)]
    return prod(stride if isinstance(stride, int) else stride[0] for stride in strides)


def _features(prepared: Prepared, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits [N, K], the input of the dense layer [N, F], and the last feature maps before it [N, C, H, W]."""
    network = prepared.network
    with eval_mode(network), torch.no_grad(), recorded_calls(network) as calls:
        logits = network(prepared.preprocessing.apply(images))
    maps = next(call.output for call in reversed(calls) if call.is_feature_maps)
    return logits, calls[-2].output.flatten(1), maps


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(F.cosine_similarity(a.flatten(1), b.flatten(1)).mean())


LAB = Lab(
    "How much does a shifted image change, with and without pooling?",
    "The flatter a line, the less a shift matters; feature maps move with the image, in steps of their stride.",
    run,
    seeds=5,
)

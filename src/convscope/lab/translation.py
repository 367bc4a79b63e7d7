"""What a shifted picture does to a network, with and without pooling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from convscope.comparison.compare import compare_groups
from convscope.data.batches import make_resident
from convscope.inspection.hooks import recorded_calls
from convscope.lab.experiment import Finding, Lab, Setting
from convscope.lab.trials import Trial, Variant, group_of, make_variant, measured, run_trials
from convscope.lab.variants import comparison_numbers, conclude, describe, seed_line, sentence, verdict_table
from convscope.modes import evaluation_mode
from convscope.progress import OnProgress
from convscope.results import Curves
from convscope.workflow import Prepared

SHIFTS = tuple(range(9))
"""Pixels to the right; the digits have 4 pixels of margin on average."""
JUDGED = 4
"""The shift at which accuracies are compared."""
POOLED = "max-pooling"
STACKS = {
    POOLED: "conv 8 5x5; relu; max-pool 2; conv 16 5x5; relu; max-pool 2; linear 10",
    "no pooling": "conv 8 5x5; relu; conv 16 5x5; relu; linear 10",
    "strided convolution": "conv 8 5x5 /2; relu; conv 16 5x5 /2; relu; linear 10",
    "global max-pooling": "conv 8 5x5; relu; max-pool 2; conv 16 5x5; relu; global-pool max; linear 10",
}
"""Without padding: a network that sees the border knows where it is."""


def variants() -> list[Variant]:
    """Return networks with and without pooling, trained on digits in the middle of the picture."""
    return [make_variant(name, stack) for name, stack in STACKS.items()]


def find(setting: Setting, on_progress: OnProgress) -> Finding:
    """Measure accuracy and features of shifted test pictures."""
    made = variants()
    trials = run_trials(made, setting, on_progress, measure=measure)
    names = tuple(variant.name for variant in made)
    shifted = [group_of(name, [_at(trial, JUDGED) for trial in one]) for name, one in zip(names, trials, strict=True)]
    comparison = compare_groups(shifted, pairs=[(POOLED, name) for name in names[1:]])
    figures = {key: [measured(one, key) for one in trials] for key in ("accuracy", "same", "moved")}
    drops = ", ".join(
        f"{name} {100 * values[:, 0].mean():.1f} to {100 * values[:, JUDGED].mean():.1f} %"
        for name, values in zip(names, figures["accuracy"], strict=True)
    )
    titles = {
        "accuracy": ("Test accuracy against shift", "accuracy, %", 100),
        "same": ("Invariance: what the dense layer gets, compared with the picture in place", "cosine", 1),
        "moved": ("Equivariance: maps of the shifted picture, compared with shifted maps", "cosine", 1),
    }
    curves = tuple(
        Curves(
            title,
            "shift to the right, pixels",
            label,
            tuple(seed_line(n, SHIFTS, factor * v) for n, v in zip(names, figures[key], strict=True)),
        )
        for key, (title, label, factor) in titles.items()
    )
    return Finding(
        answer=sentence(f"a shift of {JUDGED} pixels changes accuracy ({drops})", conclude(comparison)),
        method=f"{describe(made, trials)} The test pictures are shifted to the right, black coming in; lines are "
        "means, bands the range of the seeds.",
        panels=(*curves, replace(verdict_table(comparison), title=f"Verdicts at a shift of {JUDGED} pixels")),
        numbers=comparison_numbers(comparison)
        | {"tested_on": f"pictures shifted by {JUDGED} pixels", "shifts": list(SHIFTS)}
        | {key: {n: v.mean(0).tolist() for n, v in zip(names, values, strict=True)} for key, values in figures.items()},
    )


def measure(prepared: Prepared) -> Mapping[str, NDArray[Any]]:
    """Return for every shift which pictures are right, accuracy, and how alike features and maps are."""
    data = make_resident(prepared.images, prepared.splits.test, prepared.device)
    pictures = data.select()
    _, vector_in_place, maps_in_place = _features(prepared, pictures)
    stride = total_stride(prepared.network)
    found: dict[str, list[Any]] = {"right": [], "accuracy": [], "same": [], "moved": []}
    for pixels in SHIFTS:
        logits, vector, maps = _features(prepared, shift_right(pictures, pixels, axis=2))
        right = logits.argmax(1) == data.labels
        steps = round(pixels / stride)  # the maps' first columns have what came in, so they are left out
        found["right"].append(right.numpy())
        found["accuracy"].append(float(right.float().mean()))
        found["same"].append(_cosine(vector, vector_in_place))
        found["moved"].append(_cosine(maps[..., steps:], maps_in_place[..., : maps.shape[3] - steps]))
    return {name: np.array(values) for name, values in found.items()}


def shift_right(values: Tensor, steps: int, *, axis: int) -> Tensor:
    """Return the values moved by so many steps along an axis, zeros coming in."""
    moved = torch.zeros_like(values)
    width = values.shape[axis]
    moved.narrow(axis, steps, width - steps).copy_(values.narrow(axis, 0, width - steps))
    return moved


def total_stride(network: nn.Module) -> int:
    """Return how many pixels apart neighbouring places of the last maps are."""
    strides = [m.stride for m in network.modules() if isinstance(m, nn.Conv2d | nn.MaxPool2d)]
    return prod(stride if isinstance(stride, int) else stride[0] for stride in strides)


def _features(prepared: Prepared, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits [N, K], what the dense layer gets [N, F], and the last maps before it [N, C, H, W]."""
    network = prepared.network
    with evaluation_mode(network), torch.no_grad(), recorded_calls(network) as calls:
        logits = network(prepared.preprocessing.apply(pictures))
    maps = next(call.output for call in reversed(calls) if call.is_maps)
    return logits, calls[-2].output.flatten(1), maps


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(F.cosine_similarity(a.flatten(1), b.flatten(1)).mean())


def _at(trial: Trial, shift: int) -> Trial:
    """Return the trial as if the shifted pictures were its test pictures."""
    return replace(trial, run=replace(trial.run, right=np.asarray(trial.measured["right"][shift], bool)))


LAB = Lab(
    "How much does a shifted picture change, with and without pooling?",
    "The flatter a line stays, the less a shift matters; maps move along with the picture, in steps of their stride.",
    find,
    seeds=5,
)

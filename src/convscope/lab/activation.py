"""Sigmoid against ReLU: the size of the gradient, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from convscope.data.batches import make_resident
from convscope.lab.experiment import Finding, Lab, Setting
from convscope.lab.trials import Variant, make_variant, measured, run_trials
from convscope.lab.variants import (
    compare_variants,
    comparison_numbers,
    conclude,
    describe,
    seed_line,
    sentence,
    variant_panels,
)
from convscope.progress import OnProgress, ignore_progress
from convscope.results import Curves
from convscope.workflow import Prepared, prepare

NETWORK = (
    "conv 8 3x3 same; {0}; conv 8 3x3 same; {0}; average-pool 2; conv 16 3x3 same; {0}; conv 16 3x3 same; {0}; "
    "average-pool 2; linear 64; {0}; linear 10"
)
PICTURES = 200
"""Training pictures that the gradient is measured on."""


def variants() -> list[Variant]:
    """Return one network of six layers with three activations."""
    return [make_variant(name, NETWORK.format(name.lower())) for name in ("ReLU", "tanh", "sigmoid")]


def find(setting: Setting, on_progress: OnProgress) -> Finding:
    """Measure the gradient of every layer before and after training, and what training reached."""
    made = variants()
    trials = run_trials(made, setting, on_progress, measure=measure)
    comparison = compare_variants(made, trials)
    names = [variant.name for variant in made]
    gradients = {when: [measured(one, when) for one in trials] for when in ("before", "after")}
    ratios = [values[:, -1] / values[:, 0] for values in gradients["before"]]
    said = ", ".join(
        f"{_times(np.exp(np.log(ratio).mean()))} with {name} ({_times(ratio.min())} to {_times(ratio.max())})"
        for name, ratio in zip(names, ratios, strict=True)
    )
    layers = range(1, 1 + gradients["before"][0].shape[1])
    curves = tuple(
        Curves(
            f"Gradient of each layer's weights {when} training",
            "layer",
            "size of the gradient, power of ten",
            tuple(seed_line(name, layers, np.log10(values)) for name, values in zip(names, of_time, strict=True)),
        )
        for when, of_time in gradients.items()
    )
    return Finding(
        answer=sentence(
            f"before training the last layer's gradient is larger than the first's by a factor of {said}",
            conclude(comparison),
        ),
        method=f"{describe(made, trials)} The size of a gradient is the root of the mean square over the layer's "
        f"weights, of the mean loss of {PICTURES} training pictures.",
        panels=(*curves, *variant_panels(made, trials, comparison)),
        numbers=comparison_numbers(comparison)
        | {"ratio_before": {name: ratio.tolist() for name, ratio in zip(names, ratios, strict=True)}}
        | {
            when: {n: v.mean(0).tolist() for n, v in zip(names, values, strict=True)}
            for when, values in gradients.items()
        },
    )


def measure(prepared: Prepared) -> Mapping[str, NDArray[Any]]:
    """Return the gradient's size in every layer with weights, before and after training, float64 [layers]."""
    untrained = prepare(prepared.config, ignore_progress, images=prepared.images)
    return {"before": gradient_sizes(untrained), "after": gradient_sizes(prepared)}


def gradient_sizes(prepared: Prepared) -> NDArray[np.float64]:
    """Return the root mean square of the gradient of each layer's weights, in the order of the layers."""
    network = prepared.network
    data = make_resident(prepared.images, prepared.splits.train[:PICTURES], prepared.device)
    loss = F.cross_entropy(network(prepared.preprocessing.apply(data.pictures, data.rows)), data.labels)
    weights = [layer.weight for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    return np.array([float(gradient.square().mean().sqrt()) for gradient in torch.autograd.grad(loss, weights)])


def _times(factor: float) -> str:
    return f"{factor:.2g}" if factor < 100 else f"{float(f'{factor:.2g}'):,.0f}"


LAB = Lab(
    "Why ReLU and not sigmoid: how large is the gradient that reaches each layer?",
    "A line that falls steeply to the left means that the first layers learn slowly: their gradient has faded away.",
    find,
)

"""Sigmoid against ReLU: the size of the gradient, layer by layer."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from convscope.data.batches import make_resident
from convscope.experiments.experiment import Finding, Lab, Setting
from convscope.experiments.trials import measured, run_trials, stack_variants
from convscope.experiments.variants import compare_variants, make_finding, seed_curves, seed_means, variant_panels
from convscope.progress import OnProgress, ignore_progress
from convscope.run.prepare import Prepared, prepare

NETWORK = (
    "conv 8 3x3 same; {0}; conv 8 3x3 same; {0}; average-pool 2; conv 16 3x3 same; {0}; conv 16 3x3 same; {0}; "
    "average-pool 2; linear 64; {0}; linear 10"
)
ACTIVATIONS = ("ReLU", "tanh", "sigmoid")
IMAGES = 200
"""Training images that the gradient is measured on."""


def run(setting: Setting, on_progress: OnProgress) -> Finding:
    """Measure the gradient of every layer before and after training, and the accuracy that training reached."""
    variants = stack_variants({name: NETWORK.format(name.lower()) for name in ACTIVATIONS})
    trials = run_trials(variants, setting, on_progress, measure=measure)
    comparison = compare_variants(trials)
    gradients = {when: measured(trials, when) for when in ("before", "after")}
    ratios = {name: values[:, -1] / values[:, 0] for name, values in gradients["before"].items()}
    factors = ", ".join(
        f"{_times(np.exp(np.log(ratio).mean()))} with {name} ({_times(ratio.min())} to {_times(ratio.max())})"
        for name, ratio in ratios.items()
    )
    curves = tuple(
        seed_curves(
            f"Gradient of each layer's weights {when} training",
            "layer",
            "size of the gradient, power of ten",
            range(1, 1 + values[ACTIVATIONS[0]].shape[1]),
            {name: np.log10(of_seeds) for name, of_seeds in values.items()},
        )
        for when, values in gradients.items()
    )
    return make_finding(
        trials,
        comparison,
        first=f"before training the last layer's gradient is larger than the first's by a factor of {factors}",
        method="The size of a gradient is its root mean square over the layer's weights, for the mean loss of "
        f"{IMAGES} training images.",
        panels=(*curves, *variant_panels(trials, comparison)),
        numbers={"ratio_before": {name: ratio.tolist() for name, ratio in ratios.items()}}
        | {when: seed_means(values) for when, values in gradients.items()},
    )


def measure(prepared: Prepared) -> Mapping[str, NDArray[Any]]:
    """Return the gradient's size in every layer with weights, before and after training, float64 [layers]."""
    untrained = prepare(prepared.config, ignore_progress, images=prepared.images)
    return {"before": gradient_sizes(untrained), "after": gradient_sizes(prepared)}


def gradient_sizes(prepared: Prepared) -> NDArray[np.float64]:
    """Return the root mean square of the gradient of each layer's weights, in the order of the layers."""
    network = prepared.network
    data = make_resident(prepared.images, prepared.splits.train[:IMAGES], prepared.device)
    loss = F.cross_entropy(network(prepared.preprocessing.apply(data.images, data.rows)), data.labels)
    weights = [layer.weight for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    return np.array([float(gradient.square().mean().sqrt()) for gradient in torch.autograd.grad(loss, weights)])


def _times(factor: float) -> str:
    return f"{factor:.2g}" if factor < 100 else f"{float(f'{factor:.2g}'):,.0f}"


LAB = Lab(
    "Why ReLU and not sigmoid: how large is the gradient that reaches each layer?",
    "A line that falls steeply to the left means that the first layers learn slowly: their gradient has vanished.",
    run,
)

"""Sigmoid against ReLU: the size of the gradient, layer by layer, and what it takes to learn with sigmoids."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from convscope.data.batches import make_resident
from convscope.experiments.experiment import Finding, Lab, Setting
from convscope.experiments.trials import Trial, measured, run_trials, stack_variants
from convscope.experiments.variants import compare_variants, make_finding, seed_curves, seed_means, variant_panels
from convscope.progress import OnProgress
from convscope.run.prepare import Prepared

NETWORK = (
    "conv 8 3x3 same; {0}; conv 8 3x3 same; {0}; average-pool 2; conv 16 3x3 same; {0}; conv 16 3x3 same; {0}; "
    "average-pool 2; linear 64; {0}; linear 10"
)
ACTIVATIONS = ("ReLU", "tanh", "sigmoid")
LARGER, GAIN = "sigmoid, larger weights", 4.0
"""A sigmoid's slope is at most 1/4; weights that much larger make up for it at the start."""
EPOCHS, EARLY = 40, 10
"""Epochs trained, and after how many of them the answer looks a first time."""
IMAGES = 200
"""Training images that the gradient is measured on."""


def enlarge(network: nn.Module) -> None:
    """Draw weights with Glorot's normal distribution times GAIN and set biases to 0."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_normal_(layer.weight, GAIN)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def run(setting: Setting, on_progress: OnProgress) -> Finding:
    """Measure the gradient of every layer before and after training, and the accuracy that training reached."""
    variants = stack_variants({name: NETWORK.format(name.lower()) for name in ACTIVATIONS}, epochs=EPOCHS)
    variants.append(
        replace(variants[-1], name=LARGER, initialize=enlarge, note=f"initial weights Glorot's times {GAIN:g}")
    )
    trials = run_trials(variants, setting, on_progress, measure=measure_after, measure_before=measure_before)
    comparison = compare_variants(trials)
    gradients = {when: measured(trials, when) for when in ("before", "after")}
    ratios = {name: values[:, -1] / values[:, 0] for name, values in gradients["before"].items()}
    factors = ", ".join(
        f"{_times(np.exp(np.log(ratio).mean()))} with {name} ({_times(ratio.min())} to {_times(ratio.max())})"
        for name, ratio in ratios.items()
    )
    late = len(trials[LARGER][0].history)
    early = min(EARLY, late)
    learned = ", ".join(
        f"{name} {_validation_accuracy(of_seeds, early)} and {_validation_accuracy(of_seeds, late)} %"
        for name, of_seeds in trials.items()
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
        first=f"before training the last layer's gradient is larger than the first's by a factor of {factors}; "
        f"validation accuracy after {early} and after {late} epochs is {learned}",
        method="The size of a gradient is its root mean square over the layer's weights, for the mean loss of "
        f"{IMAGES} training images.",
        panels=(*curves, *variant_panels(trials, comparison)),
        numbers={"ratio_before": {name: ratio.tolist() for name, ratio in ratios.items()}}
        | {when: seed_means(values) for when, values in gradients.items()},
    )


def measure_before(prepared: Prepared) -> Mapping[str, NDArray[Any]]:
    """Return the gradient's size in every layer with weights before training, float64 [layers]."""
    return {"before": gradient_sizes(prepared)}


def measure_after(prepared: Prepared) -> Mapping[str, NDArray[Any]]:
    """Return the same after training."""
    return {"after": gradient_sizes(prepared)}


def gradient_sizes(prepared: Prepared) -> NDArray[np.float64]:
    """Return the root mean square of the gradient of each layer's weights, in the order of the layers."""
    network = prepared.network
    data = make_resident(prepared.images, prepared.splits.train[:IMAGES], prepared.device)
    loss = F.cross_entropy(network(prepared.preprocessing.apply(data.images, data.rows)), data.labels)
    weights = [layer.weight for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    return np.array([float(gradient.square().mean().sqrt()) for gradient in torch.autograd.grad(loss, weights)])


def _validation_accuracy(trials: Sequence[Trial], epoch: int) -> str:
    """Return the mean over the seeds at the end of an epoch, in %."""
    return f"{100 * fmean(trial.history[epoch - 1].validation_accuracy or 0.0 for trial in trials):.0f}"


def _times(factor: float) -> str:
    return f"{factor:.2g}" if factor < 100 else f"{float(f'{factor:.2g}'):,.0f}"


LAB = Lab(
    "Why ReLU and not sigmoid: how large is the gradient that reaches each layer, and do sigmoid networks learn?",
    "A line that falls steeply to the left means that the first layers learn slowly: their gradient has vanished. The "
    "learning curves show how long that lasts.",
    run,
    seeds=5,
)

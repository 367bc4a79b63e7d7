"""The effect of a shifted image on a network, with and without pooling."""

from collections.abc import Mapping
from functools import partial
from math import prod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from convscope.comparison.compare import compare_groups
from convscope.data.batches import make_resident
from convscope.experiments.equal_cost import match_parameters
from convscope.experiments.experiment import Finding, Lab, Setting
from convscope.experiments.trials import Networks, group_of, measured, run_trials, stack_variants
from convscope.experiments.variants import make_finding, seed_curves, seed_means, verdict_table
from convscope.inspection.hooks import recorded_calls
from convscope.models.eval_mode import eval_mode
from convscope.progress import OnProgress
from convscope.run.prepare import Prepared

SHIFTS = tuple(range(9))
"""Pixels to the right; the digits have a margin of 4 pixels on average."""
UNPOOLED = "conv 4 5x5; relu; conv 4 5x5; relu; linear 10"
"""Most of its parameters are in the last layer, which sees a map of 20x20."""


def pooled(channels: int) -> str:
    """Return two convolutions, each with a max-pooling of stride 2."""
    return f"conv {channels} 5x5; relu; max-pool 2; conv {2 * channels} 5x5; relu; max-pool 2; linear 10"


def strided(channels: int) -> str:
    """Return the same with strides instead of pooling."""
    return f"conv {channels} 5x5 /2; relu; conv {2 * channels} 5x5 /2; relu; linear 10"


def globally_pooled(channels: int) -> str:
    """Return the same with the maximum of each feature map instead of the second pooling."""
    return f"conv {channels} 5x5; relu; max-pool 2; conv {2 * channels} 5x5; relu; global-pool max; linear 10"


POOLED = "max-pooling"
STACKS: Networks = {
    POOLED: partial(match_parameters, pooled, UNPOOLED),
    "no pooling": UNPOOLED,
    "strided convolution": partial(match_parameters, strided, UNPOOLED),
    "global max-pooling": partial(match_parameters, globally_pooled, UNPOOLED),
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
BATCH = 500
"""Images whose feature maps are held at a time."""


def run(setting: Setting, on_progress: OnProgress) -> Finding:
    """Measure accuracy and features on shifted test images."""
    trials = run_trials(stack_variants(STACKS), setting, on_progress, measure=measure)
    correct = measured(trials, "correct")
    comparison = compare_groups(
        [group_of(name, of_seeds, one_shift_each(correct[name])) for name, of_seeds in trials.items()],
        pairs=[(POOLED, name) for name in trials if name != POOLED],
    )
    values = {key: measured(trials, key) for key in CHARTS}
    drops = ", ".join(
        f"{name} from {100 * of_seeds[:, 0].mean():.0f} to {100 * of_seeds[:, -1].mean():.0f} %"
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
        first=f"a shift of {SHIFTS[-1]} pixels changes accuracy ({drops}); judged over all shifts, "
        f"0 to {SHIFTS[-1]} pixels",
        method="All networks have about as many parameters. The test images are shifted to the right and filled up "
        "with black; lines are means, bands the range over the seeds. For the verdicts every test image has one of the "
        "shifts, each as many images.",
        panels=(*curves, verdict_table(comparison, f"Verdicts over shifts of 0 to {SHIFTS[-1]} pixels")),
        numbers={"tested_on": f"images shifted by 0 to {SHIFTS[-1]} pixels", "shifts": list(SHIFTS)}
        | {key: seed_means(of_variants) for key, of_variants in values.items()},
    )


def measure(prepared: Prepared) -> Mapping[str, NDArray[Any]]:
    """Return for every shift the correct predictions, their fraction, and the similarity of features."""
    data = make_resident(prepared.images, prepared.splits.test, prepared.device)
    batches = zip(torch.split(data.select(), BATCH), torch.split(data.labels, BATCH), strict=True)
    of_batches = [_measure_batch(prepared, images, labels) for images, labels in batches]
    of_images = {name: np.concatenate([batch[name] for batch in of_batches], axis=1) for name in of_batches[0]}
    correct = of_images.pop("correct")
    means = {name: values.mean(axis=1) for name, values in of_images.items()}
    return {"correct": correct, "accuracy": correct.mean(axis=1), **means}


def _measure_batch(prepared: Prepared, images: Tensor, labels: Tensor) -> dict[str, NDArray[Any]]:
    """Return the same for each image of a batch, [shifts, B]."""
    _, unshifted_vector, unshifted_maps = _features(prepared, images)
    stride = total_stride(prepared.network)
    found: dict[str, list[Tensor]] = {"correct": [], "invariance": [], "equivariance": []}
    for pixels in SHIFTS:
        logits, vector, maps = _features(prepared, shift_right(images, pixels, axis=2))
        steps = round(pixels / stride)  # the first columns of the feature maps see the filling and are left out
        found["correct"].append(logits.argmax(1) == labels)
        found["invariance"].append(_cosine(vector, unshifted_vector))
        found["equivariance"].append(_cosine(maps[..., steps:], unshifted_maps[..., : maps.shape[3] - steps]))
    return {name: torch.stack(values).numpy() for name, values in found.items()}


def one_shift_each(correct: NDArray[Any]) -> NDArray[Any]:
    """Return from the correct predictions at every shift, [seeds, shifts, N], one shift for each image, [seeds, N]."""
    images = np.arange(correct.shape[2])
    return correct[:, images % correct.shape[1], images]


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


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    return F.cosine_similarity(a.flatten(1), b.flatten(1))


LAB = Lab(
    "How much does a shifted image change, with and without pooling?",
    "The flatter a line, the less a shift matters; feature maps move with the image, in steps of their stride.",
    run,
    seeds=6,
)

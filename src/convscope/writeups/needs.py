"""What a recipe needs on this machine: data, weights, memory and time."""

from collections.abc import Sequence
from dataclasses import dataclass

from convscope.config import RunConfig
from convscope.device import choose_device, measure_peak_flops
from convscope.memory.predict import budget_of_run
from convscope.models.surgery.stages import lies_in
from convscope.models.zoo.pretrained import weights_status
from convscope.results.memory import LayerCost
from convscope.writeups.recipes import RECIPES, Recipe

USUAL_SHARE, FACTOR = 0.2, 3.0
"""Fraction of peak FLOPS that training reaches, and how far off that may be either way.

Two epochs on 4,000 digits, float32, one thread of a Xeon with AVX-512 beside other load, one run each: 0.09 (LeNet-5,
N2) to 0.29 (N3).
"""

TRAINING_PASSES = 3
"""Forward, the gradient of the feature maps and that of the weights: each as many operations as the first."""


@dataclass(frozen=True)
class RecipeNeeds:
    """What a recipe needs here.

    Args:
        weights: "here", "to download" or "none" for the published weights it starts from; None if it needs none.
        memory_bytes: the most that a step of training allocates; the process takes some 600 MiB and the images more.
        seconds: the range of the probable time to train.
    """

    recipe: str
    description: str
    data: str
    weights: str | None
    memory_bytes: int | None
    seconds: tuple[float, float] | None


def recipe_needs() -> list[RecipeNeeds]:
    """Return what each recipe needs, in the order of the table."""
    peak = measure_peak_flops(choose_device("auto"))
    return [_needs_of(name, recipe, peak) for name, recipe in RECIPES.items()]


def _needs_of(name: str, recipe: Recipe, peak: float) -> RecipeNeeds:
    config, images = recipe.config, recipe.images
    channels, height, width = images.shape
    size = config.data.image_size
    shape = (1 if config.data.gray else channels, size or height, size or width)
    budget = budget_of_run(config, shape, images.classes)
    seconds = None
    if budget is not None:
        likely = _operations(config, recipe, budget.layers) / (USUAL_SHARE * peak)
        seconds = likely / FACTOR, likely * FACTOR
    return RecipeNeeds(
        recipe=name,
        description=recipe.description,
        data=images.name,
        weights=weights_status(config.model.name) if config.model.pretrained else None,
        memory_bytes=None if budget is None else budget.memory.training_peak_bytes,
        seconds=seconds,
    )


def _operations(config: RunConfig, recipe: Recipe, layers: Sequence[LayerCost]) -> float:
    """Return the floating-point operations of a whole run.

    A frozen network sees each image once, in as many augmented copies as are asked for; in epochs in which stages of
    it learn again, what comes before the first of them is not computed again.
    """
    train_images, validation_images, train = recipe.train_images, recipe.validation_images, config.train

    def epoch(learning: Sequence[LayerCost]) -> float:
        return (TRAINING_PASSES * train_images + validation_images) * 2 * sum(layer.macs for layer in learning)

    if not config.frozen:
        return train.epochs * epoch(layers)
    copies = train.augmented_copies if train.augment else 1
    once = (copies * train_images + validation_images) * 2 * sum(layer.macs for layer in layers)
    if train.unfreeze_at is None:
        return once
    unfrozen = (at for at, layer in enumerate(layers) if any(lies_in(layer.name, stage) for stage in train.unfreeze))
    cut = next(unfrozen, 0)
    return once + (train.epochs - train.unfreeze_at + 1) * epoch(layers[cut:])

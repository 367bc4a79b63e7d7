"""What a run will take on this machine, before it begins: memory and time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from convscope.budget.memory import NotTraceable, predict_memory
from convscope.config import RunConfig
from convscope.device import choose_device, measure_peak_flops
from convscope.models import build_shapes
from convscope.models.blocks import InputShape
from convscope.models.pretrained import weights_status
from convscope.models.saved import channels_last
from convscope.models.stages import lies_in
from convscope.models.zoo import freeze_all_but_head
from convscope.recipes import RECIPES, Recipe
from convscope.results import Budget, LayerCost

USUAL_SHARE, FACTOR = 0.3, 3.0
"""Share of the peak of a matrix product that training reaches, and how far off that may be either way.

Our runs reached 0.11 (LeNet-5, sigmoid) to 0.88 (N3) of one thread's peak.
"""
TRAINING_PASSES = 3
"""Forward, the gradient of the maps and that of the weights: each as many operations as the first."""


@dataclass(frozen=True)
class RecipeNeeds:
    """What a recipe needs here.

    Args:
        weights: "here", "to download" or "none" for the published weights it starts from; None if it needs none.
        memory_bytes: the most that a step of training allocates; the process takes some 600 MiB and the pictures more.
        seconds: the range in which the time to train probably lies.
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
    config, pictures = recipe.config(), recipe.pictures
    channels, height, width = pictures.shape
    size = config.data.image_size
    shape = (1 if config.data.gray else channels, size or height, size or width)
    budget = budget_of_run(config, shape, pictures.classes)
    seconds = None
    if budget is not None:
        likely = _operations(config, recipe, budget.layers) / (USUAL_SHARE * peak)
        seconds = likely / FACTOR, likely * FACTOR
    return RecipeNeeds(
        recipe=name,
        description=recipe.description,
        data=pictures.name,
        weights=weights_status(config.model.name) if config.model.pretrained else None,
        memory_bytes=None if budget is None else budget.memory.training_peak_bytes,
        seconds=seconds,
    )


def _operations(config: RunConfig, recipe: Recipe, layers: Sequence[LayerCost]) -> float:
    """Return the floating-point operations of a whole run.

    A frozen network sees each picture once, in as many views as augmentation asks for; in the epochs in which stages of
    it learn again, what lies before the first of them is not computed anew.
    """
    pictures, train = recipe.pictures, config.train

    def epoch(learning: Sequence[LayerCost]) -> float:
        return (TRAINING_PASSES * pictures.train + pictures.validation) * 2 * sum(layer.macs for layer in learning)

    if not config.frozen:
        return train.epochs * epoch(layers)
    views = train.views if train.augment else 1
    once = (views * pictures.train + pictures.validation) * 2 * sum(layer.macs for layer in layers)
    if train.unfreeze_at is None:
        return once
    unfrozen = (at for at, layer in enumerate(layers) if any(lies_in(layer.name, stage) for stage in train.unfreeze))
    cut = next(unfrozen, 0)
    return once + (train.epochs - train.unfreeze_at + 1) * epoch(layers[cut:])


def budget_of_run(config: RunConfig, shape: InputShape, num_classes: int, *, batch_size: int = 0) -> Budget | None:
    """Return what a step of training takes, None if the network computes with the content of its tensors.

    Of a frozen network the head learns, on features; here they count as if they were made anew in each step.

    Args:
        batch_size: instead of the configuration's.
    """
    network = channels_last(build_shapes(config.model, shape, num_classes))
    if config.frozen:
        freeze_all_but_head(network)
    try:
        return predict_memory(network, shape, batch_size=batch_size or config.train.batch_size, train=config.train)
    except NotTraceable:
        return None

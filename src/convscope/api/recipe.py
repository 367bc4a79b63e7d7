"""`recipe`: a named run."""

from dataclasses import replace
from pathlib import Path

from convscope.config import MAX_PIXELS
from convscope.device import process_unchanged
from convscope.errors import UsageError, WeightsError, command, unknown_name
from convscope.progress import OnProgress, ignore_progress
from convscope.results.run import RunResult
from convscope.run.configure import data_source
from convscope.run.start import run_config
from convscope.storage.run_start import read_start
from convscope.writeups.needs import RecipeNeeds, recipe_needs
from convscope.writeups.recipes import RECIPES, shortened


@process_unchanged()
def list_recipes() -> list[RecipeNeeds]:
    """Return what each recipe is and what it needs on this machine, which is measured for a second."""
    return recipe_needs()


def recipe(
    name: str,
    *,
    data: str | None = None,
    data_dir: str | Path | None = None,
    seed: int = 0,
    epochs: int | None = None,
    per_class: int | None = None,
    split_seed: int = 0,
    weights: str | Path | None = None,
    max_pixels: int = MAX_PIXELS,
    allow_truncated: bool = False,
    out: str | Path | None = None,
    report: bool = True,
    on_progress: OnProgress = ignore_progress,
) -> RunResult:
    """Run a named recipe.

    Args:
        data: other images than the recipe's own; needed where it has none.
        epochs, per_class: shorten it; see DataConfig and TrainConfig, also of `max_pixels` and `allow_truncated`.
        weights: a file of trained weights, where those the recipe starts from are not to be downloaded.

    Raises:
        UsageError: the name is unknown, the recipe needs data that are not named, or it starts from no weights.
        WeightsError: its trained weights are not on this machine and cannot be fetched.
    """
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    config = RECIPES[name].config
    if not (data or config.data.source):
        raise UsageError(f"recipe {name} needs {RECIPES[name].images.name}; name it with --data PATH")
    if weights is not None and not config.model.pretrained:
        raise UsageError(f"recipe {name} starts from random weights; leave --weights out")
    source = config.data.source if data is None else data_source(data)
    folder = None if data_dir is None else str(Path(data_dir).resolve())
    config = replace(
        config,
        data=replace(
            config.data,
            source=source,
            data_dir=folder,
            per_class=config.data.per_class if per_class is None else per_class,
            split_seed=split_seed,
            max_pixels=max_pixels,
            allow_truncated=allow_truncated,
        ),
        model=replace(config.model, weights=None if weights is None else str(Path(weights).resolve())),
        train=replace(config.train, seed=seed, epochs=config.train.epochs if epochs is None else epochs),
    )
    try:
        result = run_config(config, out=out, report=report, on_progress=on_progress)
    except WeightsError as error:
        instead = _offline_command(name, data)
        if weights is not None or instead is None:
            raise
        raise WeightsError(f"{error}; the recipe that stands for it without: {instead}") from error
    train_images = sum(read_start(Path(result.run))["data"]["class_counts"]["train"])
    notes = [f"shortened: {what}" for what in shortened(RECIPES[name], config, train_images)]
    return replace(result, notes=(*result.notes, *notes))


def _offline_command(name: str, data: str | None) -> str | None:
    """Return the command of the recipe that stands for another and downloads no weights; None if there is none."""
    offline = f"{name.partition('-')[0]}-ours"
    if offline == name or offline not in RECIPES:
        return None
    return command("recipe", offline, *(() if data is None else ("--data", data)))

"""`convscope train` and `convscope recipe`: from data to an evaluated run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from convscope.cli.console import cell, print_json, print_result, print_table, start
from convscope.cli.options import DataDir, Json, Out, Report, parse_batch_size, parse_names, parse_split, takes_options
from convscope.errors import UsageError
from convscope.progress import Progress


def training_options(
    stack: Annotated[str | None, typer.Option(help='Network in one line: "conv 8 5x5; relu; linear 10".')] = None,
    pretrained: Annotated[bool, typer.Option("--pretrained", help="Start from published weights.")] = False,
    weights: Annotated[Path | None, typer.Option(help="Start from this .safetensors (or .pth) file.")] = None,
    head: Annotated[str | None, typer.Option(help="linear, or square-root: of the features. [default: linear]")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training part.")] = None,
    batch_size: Annotated[
        str | None, typer.Option(help="Pictures per step; auto: the largest that makes sense and fits.")
    ] = None,
    memory: Annotated[str | None, typer.Option(help="The most the process may take, for example 4GiB.")] = None,
    parts: Annotated[int | None, typer.Option(help="Parts in which a batch goes through the network.")] = None,
    evaluation_batch: Annotated[
        int | None, typer.Option(help="Most pictures at a time where nothing is learned.")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate (peak of a one-cycle schedule).")] = None,
    optimizer: Annotated[str | None, typer.Option(help="adam, adamw, sgd or muon.")] = None,
    momentum: Annotated[float | None, typer.Option(help="Of SGD and Muon; first beta of Adam.")] = None,
    beta2: Annotated[float | None, typer.Option(help="Second beta of Adam.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Weight decay.")] = None,
    schedule: Annotated[str | None, typer.Option(help="one-cycle or constant.")] = None,
    accumulate: Annotated[int | None, typer.Option(help="Batches whose gradients are added up.")] = None,
    label_smoothing: Annotated[float | None, typer.Option(help="Share of the target spread over all classes.")] = None,
    augment: Annotated[
        str | None, typer.Option(help="Comma list of flip, crop, rotate, zoom, color, erase, mixup.")
    ] = None,
    normalize: Annotated[bool, typer.Option(help="Normalize by the training part's mean and deviation.")] = True,
    whiten: Annotated[bool, typer.Option("--whiten", help="First layer computed from the pictures.")] = False,
    class_weights: Annotated[
        str | None, typer.Option(help="balanced: classes count the same, however many pictures each has.")
    ] = None,
    freeze: Annotated[
        bool | None, typer.Option("--freeze/--no-freeze", help="Fit the head alone. [default: if pretrained]")
    ] = None,
    unfreeze_at: Annotated[int | None, typer.Option(help="Epoch from which frozen stages learn too.")] = None,
    unfreeze: Annotated[str | None, typer.Option(help="Stages that learn then; default: all.")] = None,
    unfreeze_lr: Annotated[float | None, typer.Option(help="Learning rate from then on.")] = None,
    views: Annotated[int | None, typer.Option(help="Augmented versions of a picture a frozen network sees.")] = None,
    patience: Annotated[int | None, typer.Option(help="Stop after so many epochs without improvement.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, order, augmentation, dropout. [default: 0]")] = None,
    split: Annotated[str | None, typer.Option(help="Percentages train/validation/test, for example 70/15/15.")] = None,
    split_seed: Annotated[int | None, typer.Option(help="Seed of the split. [default: 0]")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side of the pictures in pixels.")] = None,
    gray: Annotated[bool, typer.Option("--gray", help="One channel.")] = False,
    resize: Annotated[str | None, typer.Option(help="crop or squash pictures that are not square.")] = None,
    crop_fraction: Annotated[float | None, typer.Option(help="Share of either side that is kept, up to 1.")] = None,
    interpolation: Annotated[str | None, typer.Option(help="bilinear, bicubic or lanczos.")] = None,
    per_class: Annotated[int | None, typer.Option(help="At most so many pictures of each class and part.")] = None,
    drop_empty: Annotated[bool, typer.Option("--drop-empty", help="Leave out classes without pictures.")] = False,
    allow_truncated: Annotated[bool, typer.Option("--allow-truncated", help="Accept files cut short.")] = False,
    max_pixels: Annotated[int | None, typer.Option(help="Refuse larger pictures.")] = None,
    data_dir: DataDir = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    mixed_precision: Annotated[bool, typer.Option("--mixed-precision", help="Where the device has it.")] = False,
    checkpoint_activations: Annotated[
        bool, typer.Option("--checkpoint-activations", help="Keep few maps, compute the others twice.")
    ] = False,
    checkpoint_seconds: Annotated[float | None, typer.Option(help="Longest time between checkpoints.")] = None,
    checkpoint_steps: Annotated[int | None, typer.Option(help="Save every so many steps as well.")] = None,
) -> dict[str, Any]:
    """Return what was given of the options of a run by the names that `api.make_config` knows; None is not given."""
    return {
        "stack": stack,
        "pretrained": pretrained or None,
        "weights": None if weights is None else str(weights),
        "head": head,
        "epochs": epochs,
        "batch_size": None if batch_size is None else parse_batch_size(batch_size),
        "memory": memory,
        "parts": parts,
        "evaluation_batch": evaluation_batch,
        "lr": lr,
        "optimizer": optimizer,
        "momentum": momentum,
        "beta2": beta2,
        "weight_decay": weight_decay,
        "schedule": schedule,
        "accumulate": accumulate,
        "label_smoothing": label_smoothing,
        "augment": parse_names(augment),
        "class_weights": class_weights,
        "freeze": freeze,
        "unfreeze_at": unfreeze_at,
        "unfreeze": parse_names(unfreeze),
        "unfreeze_lr": unfreeze_lr,
        "views": views,
        "normalize": None if normalize else False,
        "whiten": whiten or None,
        "patience": patience,
        "seed": seed,
        "split": None if split is None else parse_split(split),
        "split_seed": split_seed,
        "image_size": image_size,
        "gray": gray or None,
        "resize": resize,
        "crop_fraction": crop_fraction,
        "interpolation": interpolation,
        "per_class": per_class,
        "drop_empty": drop_empty or None,
        "allow_truncated": allow_truncated or None,
        "max_pixels": max_pixels,
        "data_dir": None if data_dir is None else str(data_dir.resolve()),
        "device": device,
        "threads": threads,
        "mixed_precision": mixed_precision or None,
        "checkpoint_activations": checkpoint_activations or None,
        "checkpoint_seconds": checkpoint_seconds,
        "checkpoint_steps": checkpoint_steps,
    }


@takes_options(training_options)
def train(
    data: Annotated[str | None, typer.Argument(help="Data set name, folder, archive or CSV.")] = None,
    model: Annotated[str | None, typer.Option(help="Network; see `convscope models`. [default: auto]")] = None,
    out: Out = None,
    resume: Annotated[Path | None, typer.Option(help="Run folder to go on with.")] = None,
    report: Report = True,
    as_json: Json = False,
    *,
    options: dict[str, Any],
) -> None:
    """Train a network, measure it on test pictures and write a report."""
    given = sorted(name for name, value in options.items() if value is not None)
    if resume is not None and (given or out is not None):
        named = ", ".join("--" + name.replace("_", "-") for name in given) or "--out"
        raise UsageError(f"--resume goes on exactly as the run was started; it takes no {named}")
    if resume is None and data is None:
        raise UsageError("name the data to train on, for example: convscope train mnist5k")
    with start(as_json) as on_progress:
        from convscope import api

        if resume is not None:
            result = api.resume(resume, data=data, model=model, report=report, on_progress=on_progress)
        else:
            assert data is not None
            result = api.train(data, model=model, out=out, report=report, on_progress=on_progress, **options)
    print_result(result, as_json=as_json, report=report)


def recipe(
    name: Annotated[str | None, typer.Argument(help="Name of the recipe.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the recipes.")] = False,
    data: Annotated[str | None, typer.Option(help="Other pictures than the recipe's own.")] = None,
    data_dir: DataDir = None,
    seed: Annotated[int, typer.Option(help="Of weights, order, augmentation, dropout.")] = 0,
    epochs: Annotated[int | None, typer.Option(help="Other than the recipe's, to shorten it.")] = None,
    per_class: Annotated[int | None, typer.Option(help="At most so many pictures of each class and part.")] = None,
    split_seed: Annotated[int, typer.Option(help="Of the split into parts.")] = 0,
    weights: Annotated[str | None, typer.Option(help="File of trained weights, instead of a download.")] = None,
    out: Out = None,
    report: Report = True,
    as_json: Json = False,
) -> None:
    """Run a named recipe."""
    if list_ or name is None:
        _list_recipes(as_json)
        return
    with start(as_json) as on_progress:
        from convscope import api

        folder = None if data_dir is None else str(data_dir.resolve())
        result = api.recipe(
            name,
            data=data,
            data_dir=folder,
            seed=seed,
            epochs=epochs,
            per_class=per_class,
            split_seed=split_seed,
            weights=weights,
            out=out,
            report=report,
            on_progress=on_progress,
        )
    print_result(result, as_json=as_json, report=report)


def _list_recipes(as_json: bool) -> None:
    """Print what each recipe is, what it needs and how long it will probably take here."""
    with start(as_json) as on_progress:
        from convscope.needs import recipe_needs
        from convscope.report.text import bytes_text, seconds_text

        on_progress(Progress("measuring this machine", 0, None))
        needs = recipe_needs()
    if as_json:
        print_json({"recipes": [asdict(need) for need in needs]})
        return
    rows = [
        (
            entry.recipe,
            entry.description,
            entry.data,
            cell(entry.weights),
            bytes_text(entry.memory_bytes),
            cell(None if entry.seconds is None else " to ".join(map(seconds_text, entry.seconds))),
        )
        for entry in needs
    ]
    print_table(("recipe", "what it is", "data", "weights", "memory", "time here"), rows)

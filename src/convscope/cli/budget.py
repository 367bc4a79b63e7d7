"""`convscope budget`: what training a network takes, before anything is computed."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from convscope.cli.console import print_items, print_json, print_lines, print_text, start
from convscope.cli.options import Json, takes_options
from convscope.errors import UsageError
from convscope.sizes import size_text

if TYPE_CHECKING:
    from convscope.results.memory import Budget, Duration, Fit, LayerCost, MeasuredMemory, Remedy


@takes_options(only=("stack", "optimizer", "momentum", "accumulate", "precision", "checkpoint_activations"))
def budget(
    models: Annotated[list[str] | None, typer.Argument(help="Networks; see `convscope models`.")] = None,
    input_: Annotated[
        str | None, typer.Option("--input", help="Images, as 3x200x300 (default: the network's).")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch", "--batch-size", help="Images in a batch.")] = 64,
    num_classes: Annotated[int | None, typer.Option(help="Classes (default: the network's).")] = None,
    frozen: Annotated[bool, typer.Option("--frozen", help="Only the last layer learns.")] = False,
    layers: Annotated[bool, typer.Option("--layers/--no-layers", help="Show every layer.")] = True,
    measure: Annotated[
        bool, typer.Option("--measure", help="Run a step in a process of its own, and compare.")
    ] = False,
    remedies: Annotated[bool, typer.Option("--remedies", help="Ways to take less, and what they cost.")] = False,
    fit: Annotated[str | None, typer.Option(help="How `train --memory` trains within this, as 4GiB.")] = None,
    images: Annotated[int | None, typer.Option(min=1, help="Of an epoch: also show how long it takes.")] = None,
    epochs: Annotated[int | None, typer.Option(help="With --images: how long all of them take.")] = None,
    as_json: Json = False,
    *,
    options: dict[str, Any],
) -> None:
    """Show what a network takes in memory: layer by layer, for predictions and for a step of training."""
    names: list[str | None] = list(models or ())
    if ("stack" in options) == bool(names):
        raise UsageError('name a network or give --stack "conv 8 5x5; relu; linear 10", one of the two')
    with start(as_json, module="convscope.api.budget"):  # and not all of training, which brings ONNX and charts
        import convscope

        found = [
            convscope.budget(
                name,
                input_shape=None if input_ is None else parse_shape(input_),
                batch_size=batch_size,
                num_classes=num_classes,
                frozen=frozen,
                measure=measure,
                remedies=remedies,
                fit=fit,
                images=images,
                epochs=epochs,
                **options,
            )
            for name in (*names,) or (None,)
        ]
    if as_json:
        trees = list(map(_to_json, found))
        print_json(trees[0] if len(trees) == 1 else {"budgets": trees})
        return
    for each in found:
        _print_budget(each, layers=layers)


def parse_shape(text: str) -> tuple[int, int, int]:
    """Return (C, H, W) of `3x200x300`.

    Raises:
        UsageError: it is not written like that.
    """
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*x[1-9]\d*", text):
        raise UsageError(f"input {text!r} is not channels x height x width; for example --input 3x200x300")
    channels, height, width = map(int, text.split("x"))
    return channels, height, width


def _to_json(budget: Budget) -> dict[str, Any]:
    asked_for = ("remedies", "fit", "duration", "measured")
    return {name: value for name, value in asdict(budget).items() if name not in asked_for or value}


def _print_budget(budget: Budget, *, layers: bool) -> None:
    memory = budget.memory
    shape = "x".join(map(str, budget.input_shape))
    print_text(f"{budget.model}: images of {shape}, {budget.batch_size} at a time; MB are 1,000,000 bytes")
    if layers:
        print_items(budget.layers, LAYER_COLUMNS)
    learn = "" if budget.num_trainable == budget.num_params else f", of which {budget.num_trainable:,} learn"
    lines = [
        ("parameters", f"{budget.num_params:,}{learn}"),
        ("MACs", f"{budget.macs:,} an image, forward"),
        ("weights", f"{megabytes(memory.weights_bytes)} MB"),
        ("gradients", f"{megabytes(memory.gradients_bytes)} MB"),
        (f"optimizer ({budget.optimizer})", f"{megabytes(memory.optimizer_bytes)} MB"),
        ("input", f"{megabytes(memory.input_bytes)} MB"),
        ("kept for the backward pass", f"{megabytes(memory.saved_bytes)} MB"),
        ("largest workspace", f"{megabytes(memory.workspace_bytes)} MB"),
        ("peak, one prediction", f"{megabytes(memory.prediction_peak_bytes)} MB"),
        ("peak, a batch predicted", f"{megabytes(memory.inference_peak_bytes)} MB"),
        ("peak, a training step", f"{megabytes(memory.training_peak_bytes)} MB"),
    ]
    if budget.computed:
        lines.append(("known from", "real steps were run: the network computes with the content of its tensors"))
    if budget.measured is not None:
        lines += _against_measured(memory.training_peak_bytes, memory.inference_peak_bytes, budget.measured)
    print_lines(lines, width=28)
    if budget.remedies:
        print_items(budget.remedies, REMEDY_COLUMNS)
        for remedy in budget.remedies:
            if remedy.note:
                print_text(f"{remedy.name}: {remedy.note}")
    if budget.fit is not None:
        _print_fit(budget.fit)
    if budget.duration is not None:
        _print_duration(budget.duration)


LAYER_COLUMNS: dict[str, Callable[[LayerCost], str | int | None]] = {
    "layer": lambda layer: layer.name,
    "kind": lambda layer: layer.kind,
    "output": lambda layer: None if layer.output_shape is None else "x".join(map(str, layer.output_shape)),
    "parameters": lambda layer: layer.arithmetic or None,
    "MACs an image": lambda layer: layer.macs or None,
    "output MB": lambda layer: megabytes(layer.output_bytes),
    "kept MB": lambda layer: megabytes(layer.saved_bytes),
}
REMEDY_COLUMNS: dict[str, Callable[[Remedy], str | int | None]] = {
    "to take less": lambda remedy: remedy.name,
    "peak MB": lambda remedy: megabytes(remedy.training_peak_bytes),
    "saved MB": lambda remedy: megabytes(remedy.saved_bytes),
    "time": lambda remedy: None if remedy.time_factor is None else f"x{remedy.time_factor:.2f}",
    "network": lambda remedy: "another" if remedy.changes_result else "the same",
    "options of train": lambda remedy: remedy.options or "(not yet)",
}


def _print_fit(fit: Fit) -> None:
    print_lines(
        [
            ("limit", size_text(fit.limit_bytes)),
            *((f"peak, {stage}", size_text(num_bytes)) for stage, num_bytes in fit.stages.items()),
            ("micro-batches", f"{fit.micro_batches}; a training step takes {fit.time_factor:.2f} times as long"),
            ("the same by hand", fit.options or "nothing has to change"),
            ("why", fit.reason),
        ],
        width=28,
    )


def _print_duration(duration: Duration) -> None:
    def between(seconds: float) -> str:
        low, high = seconds * duration.low_factor, seconds * duration.high_factor
        return f"{shown(seconds)} s ({shown(low)} to {shown(high)})"

    def shown(seconds: float) -> str:
        return f"{seconds:,.0f}" if seconds >= 100 else f"{seconds:.2g}"

    timed = duration.measured_batch_size
    lines = [
        ("a step", between(duration.step_seconds)),
        (f"an epoch of {duration.images:,}", f"{between(duration.epoch_seconds)}, {duration.steps_an_epoch:,} steps"),
        (f"{duration.epochs} epoch(s)", between(duration.run_seconds)),
        (
            "known from",
            "its operations: it does not fit here" if timed is None else f"steps on {timed} images, timed",
        ),
    ]
    print_lines(lines, width=28)


def _against_measured(training: int, inference: int, measured: MeasuredMemory) -> list[tuple[str, str]]:
    def against(predicted: int, found: int) -> str:
        return f"{megabytes(found)} MB, predicted {megabytes(predicted)} MB ({predicted / found - 1:+.1%})"

    return [
        ("measured, a batch predicted", against(inference, measured.inference_peak_bytes)),
        ("measured, a training step", against(training, measured.training_peak_bytes)),
        ("interpreter and libraries", f"{megabytes(measured.baseline_bytes)} MB, measured"),
        ("the whole process", against(measured.baseline_bytes + training, measured.process_peak_bytes)),
    ]


def megabytes(num_bytes: int) -> str:
    """Return a size in MB, 1,000,000 bytes."""
    return f"{num_bytes / 1e6:,.2f}"

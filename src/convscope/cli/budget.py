"""`convscope budget`: what training a network takes, before anything is computed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from convscope.cli.console import out_console, print_json, print_table, start
from convscope.cli.options import Json
from convscope.errors import UsageError
from convscope.sizes import parse_bytes, size_text

if TYPE_CHECKING:
    from convscope.results import Budget, Duration, Fit, MeasuredMemory, Remedy


def budget(
    models: Annotated[list[str] | None, typer.Argument(help="Networks; see `convscope models`.")] = None,
    stack: Annotated[str | None, typer.Option(help='Network in one line: "conv 8 5x5; relu; linear 10".')] = None,
    input_: Annotated[
        str | None, typer.Option("--input", help="Pictures, as 3x200x300. [default: the network's]")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch", "--batch-size", help="Pictures in the network at a time.")] = 64,
    num_classes: Annotated[int | None, typer.Option(help="Classes. [default: the network's]")] = None,
    optimizer: Annotated[str | None, typer.Option(help="adam, adamw, sgd or muon.")] = None,
    momentum: Annotated[float | None, typer.Option(help="Of SGD; 0 keeps no momentum.")] = None,
    accumulate: Annotated[int | None, typer.Option(help="Batches whose gradients are added up.")] = None,
    mixed_precision: Annotated[bool, typer.Option("--mixed-precision", help="16 bits where that is enough.")] = False,
    checkpoint_activations: Annotated[
        bool, typer.Option("--checkpoint-activations", help="Keep few maps, compute the others again.")
    ] = False,
    frozen: Annotated[bool, typer.Option("--frozen", help="Only the last layer learns.")] = False,
    measure: Annotated[
        bool, typer.Option("--measure", help="Run a step in a process of its own, and compare.")
    ] = False,
    remedies: Annotated[bool, typer.Option("--remedies", help="Ways to take less, and what they cost.")] = False,
    fit: Annotated[str | None, typer.Option(help="The quickest way to train within so much, as 4GiB.")] = None,
    pictures: Annotated[int | None, typer.Option(min=1, help="Of an epoch: also show how long it takes.")] = None,
    epochs: Annotated[int | None, typer.Option(help="With --pictures: how long so many take.")] = None,
    as_json: Json = False,
) -> None:
    """Show what a network takes in memory: layer by layer, for predictions and for a step of training."""
    names: list[str | None] = list(models or ())
    if (stack is None) == (not names):
        raise UsageError('name a network or give --stack "conv 8 5x5; relu; linear 10", one of the two')
    options = {
        "optimizer": optimizer,
        "momentum": momentum,
        "accumulate": accumulate,
        "epochs": epochs,
        "mixed_precision": mixed_precision or None,
        "checkpoint_activations": checkpoint_activations or None,
    }
    limit_bytes = None if fit is None else parse_bytes(fit)
    with start(as_json, module="convscope.forecast"):
        from convscope import forecast  # and not all of the API, which brings ONNX, SciPy and charts

        found = [
            forecast.budget(
                name,
                stack=stack,
                input_shape=None if input_ is None else parse_shape(input_),
                batch_size=batch_size,
                num_classes=num_classes,
                frozen=frozen,
                measure=measure,
                remedies=remedies,
                limit_bytes=limit_bytes,
                pictures=pictures,
                **options,
            )
            for name in (*names,) or (None,)
        ]
    if as_json:
        trees = [_to_json(*pair) for pair in found]
        print_json(trees[0] if len(trees) == 1 else {"budgets": trees})
        return
    for pair in found:
        _print_budget(*pair)


def parse_shape(text: str) -> tuple[int, int, int]:
    """Return (C, H, W) of `3x200x300`.

    Raises:
        UsageError: it is not written like that.
    """
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*x[1-9]\d*", text):
        raise UsageError(f"input {text!r} is not channels x height x width; for example --input 3x200x300")
    channels, height, width = map(int, text.split("x"))
    return channels, height, width


def _to_json(budget: Budget, measured: MeasuredMemory | None) -> dict[str, Any]:
    tree = {
        name: value for name, value in asdict(budget).items() if name not in ("remedies", "fit", "duration") or value
    }
    return tree if measured is None else tree | {"measured": asdict(measured)}


def _print_budget(budget: Budget, measured: MeasuredMemory | None) -> None:
    memory = budget.memory
    rows = [
        (
            layer.name,
            layer.kind,
            "-" if layer.output_shape is None else "x".join(map(str, layer.output_shape)),
            layer.arithmetic or "-",
            f"{layer.macs:,}" if layer.macs else "-",
            megabytes(layer.output_bytes),
            megabytes(layer.saved_bytes),
        )
        for layer in budget.layers
    ]
    shape = "x".join(map(str, budget.input_shape))
    out_console().print(f"{budget.model}: pictures of {shape}, {budget.batch_size} at a time; MB are 1,000,000 bytes")
    print_table(("layer", "kind", "output", "parameters", "MACs a picture", "output MB", "kept MB"), rows)
    learn = "" if budget.num_trainable == budget.num_params else f", of which {budget.num_trainable:,} learn"
    slots = f"optimizer ({budget.optimizer})"
    lines = [
        ("parameters", f"{budget.num_params:,}{learn}"),
        ("MACs", f"{budget.macs:,} a picture, forward"),
        ("weights", f"{megabytes(memory.weights_bytes)} MB"),
        ("gradients", f"{megabytes(memory.gradients_bytes)} MB"),
        (slots, f"{megabytes(memory.optimizer_bytes)} MB"),
        ("input", f"{megabytes(memory.input_bytes)} MB"),
        ("kept for the backward pass", f"{megabytes(memory.saved_bytes)} MB"),
        ("largest workspace", f"{megabytes(memory.workspace_bytes)} MB"),
        ("peak, one prediction", f"{megabytes(memory.prediction_peak_bytes)} MB"),
        ("peak, a batch predicted", f"{megabytes(memory.inference_peak_bytes)} MB"),
        ("peak, a step of training", f"{megabytes(memory.training_peak_bytes)} MB"),
    ]
    if budget.computed:
        lines.append(("known from", "real steps were run: the network computes with the content of its tensors"))
    if measured is not None:
        lines += _comparison(memory.training_peak_bytes, memory.inference_peak_bytes, measured)
    for name, value in lines:
        out_console().print(f"{name:28}{value}", highlight=False, markup=False)
    if budget.remedies:
        _print_remedies(budget.remedies)
    if budget.fit is not None:
        _print_fit(budget.fit)
    if budget.duration is not None:
        _print_duration(budget.duration)


def _print_remedies(remedies: Sequence[Remedy]) -> None:
    rows = [
        (
            remedy.name,
            megabytes(remedy.training_peak_bytes),
            megabytes(remedy.saved_bytes),
            "-" if remedy.time_factor is None else f"x{remedy.time_factor:.2f}",
            "another" if remedy.changes_result else "the same",
            remedy.options or "(not yet)",
        )
        for remedy in remedies
    ]
    print_table(("to take less", "peak MB", "saved MB", "time", "network", "options of train"), rows)
    for remedy in remedies:
        if remedy.note:
            out_console().print(f"{remedy.name}: {remedy.note}", highlight=False, markup=False)


def _print_fit(fit: Fit) -> None:
    lines = [
        ("limit", size_text(fit.limit_bytes)),
        ("interpreter and libraries", size_text(fit.beside_bytes)),
        ("reserve", size_text(fit.reserve_bytes)),
        ("a step of training", f"{size_text(fit.training_peak_bytes)}, {fit.batch_size} pictures at a time"),
        ("options of train", fit.options or "none"),
        ("why", fit.reason),
    ]
    for name, value in lines:
        out_console().print(f"{name:28}{value}", highlight=False, markup=False)


def _print_duration(duration: Duration) -> None:
    def between(seconds: float) -> str:
        low, high = seconds * duration.low_factor, seconds * duration.high_factor
        return f"{shown(seconds)} s ({shown(low)} to {shown(high)})"

    def shown(seconds: float) -> str:
        return f"{seconds:,.0f}" if seconds >= 100 else f"{seconds:.2g}"

    timed = duration.measured_batch_size
    lines = [
        ("a step", between(duration.step_seconds)),
        (f"an epoch of {duration.pictures:,}", f"{between(duration.epoch_seconds)}, {duration.steps_an_epoch:,} steps"),
        (f"{duration.epochs} epoch(s)", between(duration.run_seconds)),
        (
            "known from",
            "its operations: it does not fit here" if timed is None else f"steps on {timed} pictures, timed",
        ),
    ]
    for name, value in lines:
        out_console().print(f"{name:28}{value}", highlight=False, markup=False)


def _comparison(training: int, inference: int, measured: MeasuredMemory) -> list[tuple[str, str]]:
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

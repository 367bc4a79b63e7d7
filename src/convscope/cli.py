"""The command line: reads options, calls api.py, prints. Heavy imports stay inside the commands.

Results go to stdout (one JSON object with --json), everything else to stderr.
Exit codes: 0 done, 1 the work failed, 2 wrong usage, 130 interrupted with the state saved.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from convscope.errors import ConvscopeError, UsageError
from convscope.openmp import let_idle_threads_sleep
from convscope.results import OnProgress, Progress

if TYPE_CHECKING:
    from rich.console import Console

    from convscope.results import Accuracy, RunResult

app = typer.Typer(
    help="A workbench for CNN image classification on the computer you have.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Data sets.", no_args_is_help=True)
app.add_typer(data_app, name="data")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Out = Annotated[Path | None, typer.Option("--out", help="Run folder to create; default: a new one in runs/.")]
Report = Annotated[bool, typer.Option("--report/--no-report", help="Write report.html.")]
DataDir = Annotated[Path | None, typer.Option(help="Folder with the files of a named data set.")]


def main() -> None:
    """Run the command line; errors raised on purpose end in one line and their exit code."""
    let_idle_threads_sleep()
    try:
        app()
    except ConvscopeError as error:
        error_console().print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True, highlight=False)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        error_console().print("interrupted before training began; nothing was written")
        sys.exit(130)
    finally:
        gc.freeze()  # at exit Python would walk every object of torch once more, for half a second


@app.command()
def train(
    data: Annotated[str | None, typer.Argument(help="Data set name, folder or archive.")] = None,
    model: Annotated[str | None, typer.Option(help="Network; see `convscope models`. [default: auto]")] = None,
    stack: Annotated[str | None, typer.Option(help='Network in one line: "conv 8 5x5; relu; linear 10".')] = None,
    pretrained: Annotated[bool, typer.Option("--pretrained", help="Start from published weights.")] = False,
    weights: Annotated[Path | None, typer.Option(help="Start from this .safetensors (or .pth) file.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training part.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Pictures per step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate (peak of a one-cycle schedule).")] = None,
    optimizer: Annotated[str | None, typer.Option(help="adam, adamw or sgd.")] = None,
    momentum: Annotated[float | None, typer.Option(help="Of SGD; first beta of Adam.")] = None,
    beta2: Annotated[float | None, typer.Option(help="Second beta of Adam.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Weight decay.")] = None,
    schedule: Annotated[str | None, typer.Option(help="one-cycle or constant.")] = None,
    accumulate: Annotated[int | None, typer.Option(help="Batches whose gradients are added up.")] = None,
    label_smoothing: Annotated[float | None, typer.Option(help="Share of the target spread over all classes.")] = None,
    augment: Annotated[str | None, typer.Option(help="Comma list of flip, crop, rotate, zoom, color.")] = None,
    normalize: Annotated[bool, typer.Option(help="Normalize by the training part's mean and deviation.")] = True,
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
    per_class: Annotated[int | None, typer.Option(help="At most so many pictures of each class and part.")] = None,
    drop_empty: Annotated[bool, typer.Option("--drop-empty", help="Leave out classes without pictures.")] = False,
    allow_truncated: Annotated[bool, typer.Option("--allow-truncated", help="Accept files cut short.")] = False,
    max_pixels: Annotated[int | None, typer.Option(help="Refuse larger pictures.")] = None,
    data_dir: DataDir = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    mixed_precision: Annotated[bool, typer.Option("--mixed-precision", help="Where the device has it.")] = False,
    checkpoint_seconds: Annotated[float | None, typer.Option(help="Longest time between checkpoints.")] = None,
    checkpoint_steps: Annotated[int | None, typer.Option(help="Save every so many steps as well.")] = None,
    out: Out = None,
    resume: Annotated[Path | None, typer.Option(help="Run folder to go on with.")] = None,
    report: Report = True,
    as_json: Json = False,
) -> None:
    """Train a network, measure it on test pictures and write a report."""
    options = {
        "stack": stack,
        "pretrained": pretrained or None,
        "weights": None if weights is None else str(weights),
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "optimizer": optimizer,
        "momentum": momentum,
        "beta2": beta2,
        "weight_decay": weight_decay,
        "schedule": schedule,
        "accumulate": accumulate,
        "label_smoothing": label_smoothing,
        "augment": _parse_names(augment),
        "class_weights": class_weights,
        "freeze": freeze,
        "unfreeze_at": unfreeze_at,
        "unfreeze": _parse_names(unfreeze),
        "unfreeze_lr": unfreeze_lr,
        "views": views,
        "normalize": None if normalize else False,
        "patience": patience,
        "seed": seed,
        "split": None if split is None else _parse_split(split),
        "split_seed": split_seed,
        "image_size": image_size,
        "gray": gray or None,
        "per_class": per_class,
        "drop_empty": drop_empty or None,
        "allow_truncated": allow_truncated or None,
        "max_pixels": max_pixels,
        "data_dir": None if data_dir is None else str(data_dir.resolve()),
        "device": device,
        "threads": threads,
        "mixed_precision": mixed_precision or None,
        "checkpoint_seconds": checkpoint_seconds,
        "checkpoint_steps": checkpoint_steps,
    }
    given = sorted(name for name, value in options.items() if value is not None)
    if resume is not None and (given or out is not None):
        named = ", ".join("--" + name.replace("_", "-") for name in given) or "--out"
        raise UsageError(f"--resume goes on exactly as the run was started; it takes no {named}")
    if resume is None and data is None:
        raise UsageError("name the data to train on, for example: convscope train mnist5k")
    with _start(as_json) as on_progress:
        from convscope import api

        if resume is not None:
            result = api.resume(resume, data=data, model=model, report=report, on_progress=on_progress)
        else:
            assert data is not None
            result = api.train(data, model=model, out=out, report=report, on_progress=on_progress, **options)
    _print_result(result, as_json=as_json, report=report)


@app.command()
def recipe(
    name: Annotated[str | None, typer.Argument(help="Name of the recipe.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the recipes.")] = False,
    data: Annotated[str | None, typer.Option(help="Other pictures than the recipe's own.")] = None,
    data_dir: DataDir = None,
    seed: Annotated[int, typer.Option(help="Of weights, order, augmentation, dropout.")] = 0,
    out: Out = None,
    report: Report = True,
    as_json: Json = False,
) -> None:
    """Run a named recipe."""
    if list_ or name is None:
        from convscope.recipes import RECIPES

        rows = [(key, entry.description, entry.needs or entry.config().data.source) for key, entry in RECIPES.items()]
        _print_table(("recipe", "what it is", "data"), rows)
        return
    with _start(as_json) as on_progress:
        from convscope import api

        folder = None if data_dir is None else str(data_dir.resolve())
        result = api.recipe(
            name, data=data, data_dir=folder, seed=seed, out=out, report=report, on_progress=on_progress
        )
    _print_result(result, as_json=as_json, report=report)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    data: Annotated[str | None, typer.Argument(help="Other data with the same classes.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    as_json: Json = False,
) -> None:
    """Measure a finished run on its test part, or on other data."""
    with _start(as_json) as on_progress:
        from convscope import api

        result = api.evaluate(run, data, device=device, on_progress=on_progress)
    _print_result(result, as_json=as_json, report=False)


@app.command()
def report(run: Annotated[Path, typer.Argument(help="Run folder.")]) -> None:
    """Write a run's report.html anew."""
    from convscope.report.page import build_report
    from convscope.runs import locked

    with locked(run):
        path = build_report(run)
    out_console().print(escape(str(path)), highlight=False)


@app.command()
def runs(
    folder: Annotated[Path, typer.Argument(help="Folder that holds run folders.")] = Path("runs"),
    as_json: Json = False,
) -> None:
    """List the runs in a folder, newest first."""
    from convscope.runs import summarize_runs

    rows = summarize_runs(folder)
    if as_json:
        _print_json({"runs": rows})
        return
    _print_table(
        ("run", "created", "data", "model", "seed", "test accuracy", "train s"),
        [
            (
                row["run"],
                row["created"],
                row["data"],
                row["model"],
                str(row["seed"]),
                "not finished" if row["accuracy"] is None else f"{row['accuracy']['value']:.2%}",
                "-" if row["train_seconds"] is None else f"{row['train_seconds']:.1f}",
            )
            for row in rows
        ],
    )


@app.command()
def models(
    pattern: Annotated[str | None, typer.Argument(help="Shell pattern; looks in torchvision and timm too.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many of torchvision and timm.")] = 40,
    as_json: Json = False,
) -> None:
    """List our networks by name, or all that match a pattern, those of torchvision and timm included."""
    with _start(as_json):
        from convscope import api

        rows, further = api.list_models(pattern, limit=limit)
    if as_json:
        _print_json({"models": rows, "further": further})
        return
    titles = {"model": "model", "input": "input", "num_params": "parameters", "macs": "MACs", "weights": "weights"}
    titles = {key: title for key, title in titles.items() if any(row[key] is not None for row in rows)}
    titles["description"] = "what it is"
    _print_table(tuple(titles.values()), [tuple(_cell(row[key]) for key in titles) for row in rows])
    if pattern is None:
        error_console().print(
            "Beside these: every classifier of torchvision and timm, for example `convscope models 'mobilenet*'`. "
            "With trained weights that need no network: efficientnet_lite0.",
            highlight=False,
        )
    elif not rows:
        error_console().print(
            f"no network is called {escape(pattern)}; quote patterns, as in 'resnet*'", highlight=False
        )
    elif further:
        error_console().print(f"and {further} more; narrow the pattern or raise --limit {limit}", highlight=False)


@data_app.command("list")
def data_list(as_json: Json = False) -> None:
    """List the data sets that are known by name."""
    from convscope.data import DATASETS

    if as_json:
        entries = [{"name": n, "description": s.description, "needs": s.needs} for n, s in DATASETS.items()]
        _print_json({"data": entries})
        return
    _print_table(("name", "what it is", "needs"), [(n, s.description, s.needs) for n, s in DATASETS.items()])
    error_console().print(
        "Beside these: any folder, zip or tar of class folders, with or without train/val/test parts."
    )


# ---------------------------------------------------------------- printing
# rich is imported where something is drawn: that takes longer than the whole of a prediction.


@cache
def out_console() -> Console:
    """Return the console of results."""
    from rich.console import Console

    return Console(soft_wrap=True)


@cache
def error_console() -> Console:
    """Return the console of everything else."""
    from rich.console import Console

    return Console(stderr=True)


def escape(text: str) -> str:
    """Return text in which no square bracket is markup."""
    from rich.markup import escape

    return escape(text)


@contextmanager
def _start(as_json: bool) -> Iterator[OnProgress]:
    """Yield a progress callback that draws on stderr: a live bar on a terminal, one line an epoch elsewhere."""
    with error_console().status("starting"):
        import convscope.api  # noqa: F401  importing torch takes seconds
    if not error_console().is_terminal:
        announced: set[str] = set()
        yield lambda progress: _print_finished_stages(progress, announced)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    bar = Bar(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[values]}"),
        console=error_console(),
    )
    tasks: dict[str, Any] = {}

    def show(progress: Progress) -> None:
        if progress.stage not in tasks:
            tasks[progress.stage] = bar.add_task(progress.stage, total=progress.total, values="")
        values = "  ".join(f"{name} {value}" for name, value in progress.values.items())
        bar.update(tasks[progress.stage], completed=progress.done, total=progress.total, values=values)

    with bar:
        yield show


def _print_finished_stages(progress: Progress, announced: set[str]) -> None:
    if progress.total is None and progress.stage in announced:
        return
    if progress.total is None or progress.done >= progress.total:
        announced.add(progress.stage)
        values = "  ".join(f"{name} {value}" for name, value in progress.values.items())
        error_console().print(f"{progress.stage}  {values}".rstrip(), soft_wrap=True, highlight=False, markup=False)


def _print_result(result: RunResult, *, as_json: bool, report: bool) -> None:
    from convscope.evaluation.records import result_to_json

    if as_json:
        _print_json(result_to_json(result))
        return
    accuracy = result.accuracy
    lines = [
        ("accuracy", f"{_accuracy_text(accuracy)} on the {result.part} part of {result.data}"),
        ("loss", f"{result.metrics.loss:.4f}"),
        ("network", f"{result.model}, {result.num_params:,} parameters"),
    ]
    if result.train_seconds is not None and result.fraction_of_peak_flops is not None:
        speed = f"{result.fraction_of_peak_flops:.0%} of this machine's measured peak"
        lines.append(("training", f"{result.epochs} epoch(s) in {result.train_seconds:.1f} s, {speed}"))
    lines += [("note", note) for note in result.notes]
    lines.append(("run", result.run))
    if report:
        lines.append(("report", str(Path(result.run) / "report.html")))
    for name, value in lines:
        out_console().print(f"{name:10}{value}", highlight=False, markup=False)


def _accuracy_text(accuracy: Accuracy) -> str:
    interval = f"95 % interval {accuracy.low:.2%} to {accuracy.high:.2%}"
    return f"{accuracy.value:.2%} ({accuracy.correct:,} of {accuracy.n:,}; {interval})"


def _print_table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    from rich.table import Table as TextTable

    table = TextTable(box=None, pad_edge=False, header_style="bold")
    longest_name = max((len(row[0]) for row in rows), default=0)
    for number, column in enumerate(columns):
        table.add_column(column, overflow="fold", min_width=min(longest_name, 40) if number == 0 else None)
    for row in rows:
        table.add_row(*map(escape, row))
    out_console().print(table, highlight=False)


def _cell(value: str | int | None) -> str:
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else value


def _print_json(tree: Any) -> None:  # noqa: ANN401
    sys.stdout.write(json.dumps(tree, ensure_ascii=False, allow_nan=False) + "\n")


def _parse_names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(name.strip() for name in text.split(",") if name.strip())


def _parse_split(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(share) for share in text.split("/"))
    except ValueError:
        raise UsageError(f"split {text!r} is not three percentages; for example --split 70/15/15") from None

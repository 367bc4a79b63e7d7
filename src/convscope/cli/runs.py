"""`convscope evaluate`, `report`, `export` and `runs`: what is done with finished runs."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from convscope.cli.console import error_console, escape, out_console, print_json, print_result, print_table, start
from convscope.cli.options import Json


def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    data: Annotated[str | None, typer.Argument(help="Other data with the same classes.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    as_json: Json = False,
) -> None:
    """Measure a finished run on its test part, or on other data."""
    with start(as_json) as on_progress:
        from convscope import api

        result = api.evaluate(run, data, device=device, on_progress=on_progress)
    print_result(result, as_json=as_json, report=False)


def report(run: Annotated[Path, typer.Argument(help="Run folder.")]) -> None:
    """Write a run's report.html anew."""
    from convscope.report.page import build_report
    from convscope.runs import locked

    with locked(run):
        path = build_report(run)
    out_console().print(escape(str(path)), highlight=False)


def export(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    to: Annotated[str, typer.Option(help="onnx.")] = "onnx",
    out: Annotated[Path | None, typer.Option(help="File to write; default: model.onnx in the run folder.")] = None,
) -> None:
    """Write a run as one file that predicts without torch."""
    with start(as_json=False):
        from convscope import api

        path = api.export(run, to=to, out=out)
    out_console().print(escape(str(path)), highlight=False)


def runs(
    folder: Annotated[Path, typer.Argument(help="Folder that holds run folders.")] = Path("runs"),
    as_json: Json = False,
) -> None:
    """List the runs in a folder, newest first."""
    from convscope.runs import summarize_runs

    rows = summarize_runs(folder)
    if as_json:
        print_json({"runs": rows})
        return
    if not rows:
        error_console().print(
            f"no runs in {folder}; `convscope train` makes one", highlight=False, markup=False, soft_wrap=True
        )
        return
    print_table(
        ("run", "created", "data", "model", "seed", "test accuracy", "train s"),
        [
            (
                row["run"],
                datetime.fromisoformat(row["created"]).astimezone().strftime("%Y-%m-%d %H:%M"),
                row["data"],
                row["model"],
                str(row["seed"]),
                "not finished" if row["accuracy"] is None else f"{row['accuracy']['value']:.2%}",
                "-" if row["train_seconds"] is None else f"{row['train_seconds']:.1f}",
            )
            for row in rows
        ],
    )

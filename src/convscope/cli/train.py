"""`convscope train`: from data to an evaluated run."""

from pathlib import Path
from typing import Annotated, Any

import typer

from convscope.cli.console import print_result, start
from convscope.cli.options import Json, Report, takes_options
from convscope.config import FIRST, OUTPUT, flag_of
from convscope.errors import UsageError


@takes_options()
def train(
    data: Annotated[str | None, typer.Argument(help="Data set name, folder, archive or CSV.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Network; see `convscope models` (default: auto).", rich_help_panel=FIRST)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder to create (default: a new one in runs/).", rich_help_panel=FIRST)
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Run folder to go on with.", rich_help_panel=OUTPUT)] = None,
    moved_to: Annotated[
        str | None,
        typer.Option("--data", help="With --resume: where the run's data are now.", rich_help_panel=OUTPUT),
    ] = None,
    report: Report = True,
    as_json: Json = False,
    *,
    options: dict[str, Any],
) -> None:
    """Train a network, measure it on test images and write a report."""
    if resume is not None and (options or out is not None):
        named = ", ".join(map(flag_of, sorted(options))) or "--out"
        raise UsageError(f"--resume goes on exactly as the run was started; it takes no {named}")
    if resume is None and moved_to is not None:
        raise UsageError(f"--data goes with --resume; to train on {moved_to}: convscope train {moved_to}")
    if resume is None and data is None:
        raise UsageError("name the data to train on, for example: convscope train mnist5k")
    with start(as_json) as on_progress:
        import convscope

        if resume is not None:
            result = convscope.resume(
                resume, data=moved_to or data, model=model, report=report, on_progress=on_progress
            )
        else:
            assert data is not None
            result = convscope.train(data, model=model, out=out, report=report, on_progress=on_progress, **options)
    print_result(result, as_json=as_json, report=report)

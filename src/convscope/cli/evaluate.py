"""`convscope evaluate`: a finished run, measured."""

from pathlib import Path
from typing import Annotated, Any

import typer

from convscope.cli.console import print_result, print_skipped, start
from convscope.cli.options import Json, takes_options

MOST_SKIPPED = 20
"""Skipped files that are printed; skipped.csv and --json have all of them."""


@takes_options(only=("max_pixels", "allow_truncated"))
def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    data: Annotated[str | None, typer.Argument(help="Other data with classes that the network knows.")] = None,
    moved_to: Annotated[str | None, typer.Option("--data", help="Where the run's own data are now.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    as_json: Json = False,
    *,
    options: dict[str, Any],
) -> None:
    """Measure a finished run on its test split, or on other data."""
    with start(as_json) as on_progress:
        import convscope

        result = convscope.evaluate(run, data, moved_to=moved_to, device=device, on_progress=on_progress, **options)
    if result.other_data is not None:
        print_skipped(result.other_data.skipped, most=MOST_SKIPPED)
    print_result(result, as_json=as_json, report=False)

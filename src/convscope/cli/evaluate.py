"""`convscope evaluate`: a finished run, measured."""

from pathlib import Path
from typing import Annotated

import typer

from convscope.cli.console import print_result, start
from convscope.cli.options import Json


def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    data: Annotated[str | None, typer.Argument(help="Other data with the same classes.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    as_json: Json = False,
) -> None:
    """Measure a finished run on its test split, or on other data."""
    with start(as_json) as on_progress:
        import convscope

        result = convscope.evaluate(run, data, device=device, on_progress=on_progress)
    print_result(result, as_json=as_json, report=False)

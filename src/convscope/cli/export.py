"""`convscope export`: a finished run as one file that predicts."""

from pathlib import Path
from typing import Annotated

import typer

from convscope.cli.console import print_text, start


def export(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    to: Annotated[str, typer.Option(help="onnx.")] = "onnx",
    out: Annotated[Path | None, typer.Option(help="File to write (default: model.onnx in the run folder).")] = None,
) -> None:
    """Write a run as one file that predicts without torch."""
    with start(as_json=False):
        import convscope

        path = convscope.export(run, to=to, out=out)
    print_text(str(path))

"""`convscope report`: a run's page, drawn from what the run recorded. Imports no torch."""

from pathlib import Path
from typing import Annotated

import typer

from convscope.cli.console import print_text


def report(run: Annotated[Path, typer.Argument(help="Run folder.")]) -> None:
    """Write a run's report.html again."""
    import convscope

    print_text(str(convscope.report(run)))

"""Options that several commands take, and how their values are read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from convscope.errors import UsageError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Out = Annotated[Path | None, typer.Option("--out", help="Run folder to create; default: a new one in runs/.")]
Report = Annotated[bool, typer.Option("--report/--no-report", help="Write report.html.")]
DataDir = Annotated[Path | None, typer.Option(help="Folder with the files of a named data set.")]


def parse_names(text: str | None) -> tuple[str, ...] | None:
    """Return the names of a comma list; None is not given."""
    return None if text is None else tuple(name.strip() for name in text.split(",") if name.strip())


def parse_split(text: str) -> tuple[float, ...]:
    """Return the percentages of `70/15/15`."""
    try:
        return tuple(float(share) for share in text.split("/"))
    except ValueError:
        raise UsageError(f"split {text!r} is not three percentages; for example --split 70/15/15") from None

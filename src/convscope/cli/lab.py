"""`convscope lab`: questions about convolutional networks, answered by measuring."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from convscope.cli.console import out_console, print_json, print_table, start
from convscope.cli.options import Json
from convscope.results import Table


def lab(
    name: Annotated[str | None, typer.Argument(help="Experiment; --list shows them.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the experiments.")] = False,
    seeds: Annotated[int | None, typer.Option(help="Networks of each kind. [default: the experiment's]")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Few pictures, one epoch: to see that it works.")] = False,
    jobs: Annotated[int | None, typer.Option(help="Networks trained at once. [default: one a core]")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for lab.html and lab.json. [default: runs/lab-NAME]")] = None,
    as_json: Json = False,
) -> None:
    """Answer a question about convolutional networks with an experiment of a minute or two; embedded data."""
    with start(as_json) as on_progress:
        from convscope.lab import answer

        if list_ or name is None:
            experiments = answer.list_labs()
        else:
            found = answer.lab(name, seeds=seeds, quick=quick, out=out, jobs=jobs, on_progress=on_progress)
    if list_ or name is None:
        if as_json:
            print_json({"labs": experiments})
            return
        print_table(("experiment", "question"), [(each["lab"], each["question"]) for each in experiments])
        return
    if as_json:
        print_json(found.to_json())
        return
    print_text = out_console().print
    print_text(found.question, style="bold", highlight=False, markup=False)
    for panel in found.panels:
        if isinstance(panel, Table):
            print_text(f"\n{panel.title}", highlight=False, markup=False)
            print_table(panel.columns, panel.rows)
    print_text(f"\n{found.answer}", highlight=False, markup=False)
    print_text(f"page      {found.page}", highlight=False, markup=False)

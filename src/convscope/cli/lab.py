"""`convscope lab`: questions about convolutional networks, answered by experiments."""

from operator import itemgetter
from pathlib import Path
from typing import Annotated

import typer

from convscope.cli.console import print_items, print_json, print_lines, print_table, print_text, start
from convscope.cli.options import Json
from convscope.results.panels import Table


def lab(
    name: Annotated[str | None, typer.Argument(help="Experiment; --list shows them.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the experiments.")] = False,
    seeds: Annotated[int | None, typer.Option(help="Networks of each variant (default: the experiment's).")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Few images, one epoch: shows that it works.")] = False,
    jobs: Annotated[int | None, typer.Option(help="Networks trained at the same time (default: one per core).")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for lab.html and lab.json (default: runs/lab-NAME).")] = None,
    as_json: Json = False,
) -> None:
    """Answer a question about convolutional networks with an experiment of a minute or two; embedded data."""
    with start(as_json) as on_progress:
        import convscope

        if list_ or name is None:
            experiments = convscope.list_labs()
            if as_json:
                print_json({"labs": experiments})
            else:
                print_items(experiments, {"experiment": itemgetter("lab"), "question": itemgetter("question")})
            return
        found = convscope.lab(name, seeds=seeds, quick=quick, out=out, jobs=jobs, on_progress=on_progress)
    if as_json:
        print_json(found.to_json())
        return
    print_text(found.question, style="bold")
    for panel in found.panels:
        if isinstance(panel, Table):
            print_text("")
            print_text(panel.title)
            print_table(panel.columns, panel.rows)
    print_text("")
    print_text(found.answer)
    print_lines([("page", found.page)])

"""`convscope recipe`: a named run."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from convscope.cli.console import print_items, print_json, print_result, start
from convscope.cli.options import Json, Report, takes_options
from convscope.progress import Progress


@takes_options(only=("data_dir", "seed", "per_class", "split_seed", "weights", "max_pixels", "allow_truncated"))
def recipe(
    name: Annotated[str | None, typer.Argument(help="Name of the recipe.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the recipes.")] = False,
    data: Annotated[str | None, typer.Option(help="Other images than the recipe's own.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Other than the recipe's, to shorten it.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder to create (default: a new one in runs/).")] = None,
    report: Report = True,
    as_json: Json = False,
    *,
    options: dict[str, Any],
) -> None:
    """Run a named recipe."""
    if list_ or name is None:
        _list_recipes(as_json)
        return
    with start(as_json) as on_progress:
        import convscope

        result = convscope.recipe(
            name, data=data, epochs=epochs, out=out, report=report, on_progress=on_progress, **options
        )
    print_result(result, as_json=as_json, report=report)


def _list_recipes(as_json: bool) -> None:
    """Print what each recipe is, what it needs and how long it will probably take here."""
    with start(as_json) as on_progress:
        import convscope
        from convscope.pages.text import bytes_text, seconds_text

        on_progress(Progress("measuring this machine", 0, None))
        needs = convscope.list_recipes()
    if as_json:
        print_json({"recipes": [asdict(need) for need in needs]})
        return
    print_items(
        needs,
        {
            "recipe": lambda need: need.recipe,
            "what it is": lambda need: need.description,
            "data": lambda need: need.data,
            "weights": lambda need: need.weights,
            "memory": lambda need: bytes_text(need.memory_bytes),
            "time here": lambda need: need.seconds and " to ".join(map(seconds_text, need.seconds)),
        },
    )

"""`convscope models`: networks by name."""

from typing import Annotated

import typer

from convscope.cli.console import cell, print_json, print_table, print_text, start
from convscope.cli.options import Json


def models(
    pattern: Annotated[str | None, typer.Argument(help="Shell pattern; looks in torchvision and timm too.")] = None,
    limit: Annotated[int, typer.Option(help="List at most N of torchvision and timm.")] = 40,
    as_json: Json = False,
) -> None:
    """List our networks by name, or all that match a pattern, those of torchvision and timm included."""
    with start(as_json):
        import convscope

        rows, further = convscope.list_models(pattern, limit=limit)
    if as_json:
        print_json({"models": rows, "further": further})
        return
    if not rows:
        print_text(f"no network is called {pattern}; quote patterns, as in 'resnet*'", note=True)
        return
    titles = {"model": "model", "input": "input", "num_params": "parameters", "macs": "MACs", "weights": "weights"}
    titles = {key: title for key, title in titles.items() if any(row[key] is not None for row in rows)}
    titles["description"] = "what it is"
    print_table(tuple(titles.values()), [tuple(cell(row[key]) for key in titles) for row in rows])
    if pattern is None:
        print_text(
            "Beside these: every classifier of torchvision and timm, for example `convscope models 'mobilenet*'`. "
            "With trained weights that need no network: efficientnet_lite0.",
            note=True,
        )
    elif further:
        print_text(f"and {further} more; narrow the pattern or raise --limit {limit}", note=True)

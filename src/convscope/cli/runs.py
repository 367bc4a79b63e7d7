"""`convscope runs`: the runs in a folder. Imports no torch."""

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from convscope.cli.console import print_json, print_table, print_text
from convscope.cli.options import Json


def runs(
    folder: Annotated[Path, typer.Argument(help="Folder that holds run folders.")] = Path("runs"),
    as_json: Json = False,
) -> None:
    """List the runs in a folder, newest first."""
    import convscope

    rows = convscope.list_runs(folder)
    if as_json:
        print_json({"runs": rows})
        return
    if not rows:
        print_text(f"no runs in {folder}; `convscope train` makes one", note=True, soft_wrap=True)
        return
    print_table(("run", "created", "data", "model", "seed", "accuracy", "on", "train s"), [_cells(row) for row in rows])
    for row in rows:
        if row["error"] is not None:
            print_text(row["error"], note=True, soft_wrap=True)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    if row["error"] is not None:
        return (row["run"], "-", "-", "-", "-", "cannot be read", "-", "-")
    return (
        row["run"],
        datetime.fromisoformat(row["created"]).astimezone().strftime("%Y-%m-%d %H:%M"),
        row["data"],
        row["model"],
        str(row["seed"]),
        "not finished" if row["accuracy"] is None else f"{row['accuracy']['value']:.2%}",
        row["split"] or "-",
        "-" if row["train_seconds"] is None else f"{row['train_seconds']:.1f}",
    )

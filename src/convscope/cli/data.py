"""`convscope data list`: data sets by name; `convscope data check`: how healthy a data set is. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from convscope.cli.console import error_console, out_console, print_json, print_table, start
from convscope.cli.options import DataDir, Json

if TYPE_CHECKING:
    from convscope.data.health import Health


def list_(as_json: Json = False) -> None:
    """List the data sets that are known by name."""
    from convscope.data import DATASETS

    if as_json:
        entries = [{"name": n, "description": s.description, "needs": s.needs} for n, s in DATASETS.items()]
        print_json({"data": entries})
        return
    print_table(("name", "what it is", "needs"), [(n, s.description, s.needs) for n, s in DATASETS.items()])
    error_console().print(
        "Beside these: any folder, zip or tar of class folders, with or without train/val/test parts, "
        "and any CSV with the columns path, label and, where wanted, split."
    )


def check(
    path: Annotated[str, typer.Argument(help="Folder, archive or CSV of pictures, or a data set by name.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for health.html and health.json. [default: health-NAME here]")
    ] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Look at every picture of a data set: what would be skipped, duplicates, leaks, classes, odd pictures; as a page.

    With --json and without --out nothing is written.
    """
    with start(as_json, module=None) as on_progress:
        from convscope.checkup import PAGE, check_data
        from convscope.report.health import health_to_json
        from convscope.runs import file_name

        folder = None if data_dir is None else str(data_dir.resolve())
        if out is None and not as_json:
            out = Path(f"health-{file_name(Path(path).resolve().name)}")
        health = check_data(path, out=out, data_dir=folder, on_progress=on_progress)
    if as_json:
        print_json(health_to_json(health))
        return
    lines = _summary(health)
    if out is not None:
        lines.append(("page", str(out / PAGE)))
    for name, value in lines:
        out_console().print(f"{name:11}{value}", highlight=False, markup=False)


def _summary(health: Health) -> list[tuple[str, str]]:
    accepted, skipped = len(health.pictures), len(health.skipped)
    ignored = f"; {health.ignored:,} that are never pictures ignored" if health.ignored else ""
    counts = {name: sum(own.values()) for name, own in health.class_counts().items()}
    shown = ", ".join(f"{name} {count:,}" for name, count in list(counts.items())[:10])
    near = health.duplicates.unclear or f"{len(health.duplicates.near):,} pairs look the same without being equal"
    repeated = sum(map(len, health.equal_groups())) - len(health.equal_groups())
    lines = [
        ("found", f"{health.found:,} = {accepted:,} accepted + {skipped:,} skipped{ignored}"),
        ("classes", f"{shown} and {len(counts) - 10} more" if len(counts) > 10 else shown or "none"),
        ("duplicates", f"{repeated:,} pictures repeat another one pixel by pixel; {near}"),
        ("conflicts", f"{len(health.conflicts()):,} pictures stand in more than one class"),
        ("leaks", f"{len(health.leaks()):,} pictures stand in more than one part of the source"),
    ]
    return [*lines, ("problem", health.problem)] if health.problem else lines

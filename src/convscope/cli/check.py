"""`convscope check`: how healthy a data set is. Imports no torch."""

from pathlib import Path
from typing import Annotated, Any

import typer

from convscope.cli.console import print_json, print_lines, start
from convscope.cli.options import Json, takes_options


@takes_options(only=("data_dir", "max_pixels", "allow_truncated"))
def check(
    data: Annotated[str, typer.Argument(help="Folder, archive or CSV of images, or a data set by name.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for health.html and health.json (default: health-NAME here).")
    ] = None,
    as_json: Json = False,
    *,
    options: dict[str, Any],
) -> None:
    """Look at every image of a data set: skipped files, duplicates, leaks, classes, odd images; as a page.

    With --json and without --out nothing is written.
    """
    with start(as_json, module=None) as on_progress:
        import convscope
        from convscope.api.check import PAGE
        from convscope.pages.health import health_to_json
        from convscope.storage.files import file_name

        if out is None and not as_json:
            out = Path(f"health-{file_name(Path(data).resolve().name)}")
        health = convscope.check(data, out=out, on_progress=on_progress, **options)
    if as_json:
        print_json(health_to_json(health))
        return
    accepted, skipped = len(health.images), len(health.skipped)
    ignored = f"; {health.ignored:,} that are never images ignored" if health.ignored else ""
    counts = {name: sum(own.values()) for name, own in health.class_counts().items()}
    shown = ", ".join(f"{name} {count:,}" for name, count in list(counts.items())[:10])
    near = health.duplicates.unclear or f"{len(health.duplicates.near):,} pairs look the same without being equal"
    repeated = sum(map(len, health.equal_groups())) - len(health.equal_groups())
    lines = [
        ("found", f"{health.found:,} = {accepted:,} accepted + {skipped:,} skipped{ignored}"),
        (
            "classes",
            f"{len(counts):,}: {shown}{f' and {len(counts) - 10} more' * (len(counts) > 10)}" if counts else "none",
        ),
        ("duplicates", f"{repeated:,} images repeat another one pixel by pixel; {near}"),
        ("conflicts", f"{len(health.conflicts()):,} images are in more than one class"),
        ("leaks", f"{len(health.leaks()):,} images are in more than one split of the source"),
    ]
    lines += [("note", note) for note in health.notes]
    if health.problem:
        lines.append(("problem", health.problem))
    if out is not None:
        lines.append(("page", str(out / PAGE)))
    print_lines(lines, width=11)

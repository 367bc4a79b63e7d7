"""`convscope inspect`: looking inside a trained network."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from convscope.cli.console import print_json, print_lines, start
from convscope.cli.options import Json, takes_options


@takes_options(only=("max_pixels", "allow_truncated"))
def inspect(
    target: Annotated[str, typer.Argument(help="Run folder, or a network with published weights by name.")],
    image: Annotated[
        Path | None, typer.Option(help="Image to look at (default: the one in the report, and the data too).")
    ] = None,
    layer: Annotated[str | None, typer.Option(help="Layer or block to look at closely; --json lists them.")] = None,
    channel: Annotated[int | None, typer.Option(help="Channel of the layer to look at closely.")] = None,
    moved_to: Annotated[str | None, typer.Option("--data", help="Where the run's own data are now.")] = None,
    out: Annotated[Path | None, typer.Option(help="Page to write (default: RUN/inspection.html).")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    as_json: Json = False,
    *,
    options: dict[str, Any],
) -> None:
    """Look inside a network while it sees an image: feature maps, filters, where the evidence is; as a page."""
    with start(as_json) as on_progress:
        import convscope

        inspected = convscope.inspect(
            target,
            image=image,
            layer=layer,
            channel=channel,
            moved_to=moved_to,
            out=out,
            device=device,
            on_progress=on_progress,
            **options,
        )
    if as_json:
        print_json(asdict(inspected))
        return
    lines = [("image", inspected.image)]
    lines += [(f"{100 * each['probability']:.1f} %", each["label"]) for each in inspected.topk]
    lines += [("no " + name, reason) for name, reason in inspected.sections.items() if reason is not None]
    lines.append(("page", inspected.page))
    print_lines(lines)

"""`convscope compare`: is one network better than another?"""

from pathlib import Path
from typing import Annotated, Any

import typer

from convscope.cli.console import print_items, print_json, print_text, start
from convscope.cli.options import Json, parse_names, takes_options


@takes_options(without=("seed",))
def compare(
    what: Annotated[list[str], typer.Argument(help="Runs; or, with --models or --vary, a data set.")],
    models: Annotated[str | None, typer.Option(help="Comma list of networks to train on the data set.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Runs of each network (default: 3).")] = None,
    vary: Annotated[
        list[str] | None, typer.Option(help="Train with each value: normalize=on,off or augment=none,flip+crop.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(help="Runs trained at once (default: one a core).")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the comparison and its runs; default: in runs/.")] = None,
    as_json: Json = False,
    *,
    options: dict[str, Any],
) -> None:
    """Compare networks on the same images and say whether the difference is real; train what is missing."""
    with start(as_json) as on_progress:
        import convscope
        from convscope.comparison.compare import comparison_to_json
        from convscope.pages.comparison import PAGE

        comparison, folder = convscope.compare(
            *what,
            models=parse_names(models or ""),
            seeds=seeds,
            vary=vary or (),
            out=out,
            jobs=jobs,
            on_progress=on_progress,
            **options,
        )
    page = str(folder / PAGE)
    if as_json:
        print_json(comparison_to_json(comparison) | {"comparison": str(folder), "page": page})
        return
    print_items(
        comparison.models,
        {
            "model": lambda model: model.model,
            f"{comparison.split} accuracy": lambda model: f"{model.accuracy.value:.2%}",
            "95 % interval": lambda model: f"{model.accuracy.low:.2%} to {model.accuracy.high:.2%}",
            "std": lambda model: None if model.std is None else f"{100 * model.std:.2f}",
            "seeds": lambda model: model.n_seeds,
            "parameters": lambda model: model.num_params,
            "train s": lambda model: None if model.train_seconds is None else f"{model.train_seconds:.1f}",
            "ms": lambda model: None if model.latency_ms is None else f"{model.latency_ms:.2f}",
        },
    )
    if comparison.baseline_accuracy is not None:
        print_text(f"always naming {comparison.baseline_class} gives {comparison.baseline_accuracy:.2%}")
    for line in (*(pair.sentence for pair in comparison.pairs), page):
        print_text(line)

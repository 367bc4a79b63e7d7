"""`convscope compare`: is one network better than another?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from convscope.cli.console import cell, out_console, print_json, print_table, start
from convscope.cli.options import Json, parse_names, takes_options
from convscope.cli.train import training_options


@takes_options(training_options, without=("seed",))
def compare(
    what: Annotated[list[str], typer.Argument(help="Runs; or, with --models or --vary, a data set.")],
    models: Annotated[str | None, typer.Option(help="Comma list of networks to train on the data set.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Runs of each network. [default: 3]")] = None,
    vary: Annotated[
        list[str] | None, typer.Option(help="Train with each value: normalize=on,off or augment=none,flip+crop.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(help="Runs trained at once. [default: one a core]")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the comparison and its runs; default: in runs/.")] = None,
    as_json: Json = False,
    *,
    options: dict[str, Any],
) -> None:
    """Compare networks on the same pictures and say whether the difference is real; train what is missing."""
    with start(as_json) as on_progress:
        from convscope.comparison.compare import comparison_to_json
        from convscope.report.comparison import PAGE
        from convscope.series.compare import compare as compare_

        comparison, folder = compare_(
            *what,
            models=parse_names(models),
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
    print_table(
        ("model", "accuracy", "95 % interval", "std", "seeds", "parameters", "train s", "ms"),
        [
            (
                model.model,
                f"{model.accuracy.value:.2%}",
                f"{model.accuracy.low:.2%} to {model.accuracy.high:.2%}",
                cell(None if model.std is None else f"{100 * model.std:.2f}"),
                str(model.n_seeds),
                cell(model.num_params),
                cell(None if model.train_seconds is None else f"{model.train_seconds:.1f}"),
                cell(None if model.latency_ms is None else f"{model.latency_ms:.2f}"),
            )
            for model in comparison.models
        ],
    )
    for pair in comparison.pairs:
        out_console().print(pair.sentence, highlight=False, markup=False)
    out_console().print(page, highlight=False, markup=False)

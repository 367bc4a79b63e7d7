"""`convscope predict`: the classes of images without labels. Imports no torch, and rich only to draw a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from convscope.cli.console import print_json, print_skipped, print_table, print_text
from convscope.cli.options import Json, takes_options
from convscope.errors import DataError
from convscope.progress import Progress

if TYPE_CHECKING:
    from convscope.api.predict import PredictionResult
    from convscope.results.prediction import ImagePrediction


@takes_options(only=("max_pixels", "allow_truncated"))
def predict(
    model: Annotated[str, typer.Argument(help="Run folder, model file, or a network with published weights.")],
    paths: Annotated[list[str], typer.Argument(help="Images, folders and archives of images.")],
    topk: Annotated[int, typer.Option(help="Classes to name for each image.")] = 3,
    csv: Annotated[Path | None, typer.Option(help="Write the predictions to this CSV file as well.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    as_json: Json = False,
    *,
    options: dict[str, Any],
) -> None:
    """Classify images, with probabilities."""
    from convscope.api.predict import predict as classify

    result = classify(model, paths, topk=topk, threads=threads, on_progress=_announce, **options)
    if csv is not None:
        _write_csv(csv, result, topk)
    if as_json:
        print_json(_to_json(result))
    else:
        _print(result)
    if not result.predictions:
        none = f"none of {len(result.skipped)} file(s) could be classified; the reasons are listed"
        raise DataError(none if result.skipped else "no files in the folders given; name images, or a folder with some")


def _announce(progress: Progress) -> None:
    if progress.done == 0:  # the rest is over before one could read of it
        print_text(progress.stage, note=True)


def _to_json(result: PredictionResult) -> dict[str, Any]:
    return {
        "predictions": [
            {
                "path": prediction.path,
                "label": prediction.label,
                "probability": prediction.topk[0][1],
                "nearest": prediction.topk[0][0],
                "unknown": prediction.unknown,
                "topk": [{"label": label, "probability": probability} for label, probability in prediction.topk],
            }
            for prediction in result.predictions
        ],
        "skipped": [{"path": item.file, "reason": item.reason, "remedy": item.remedy} for item in result.skipped],
        "ignored": result.ignored,
    }


def _print(result: PredictionResult) -> None:
    if result.predictions:
        most = max(len(prediction.topk) for prediction in result.predictions)
        columns = ("image", "prediction", *(f"{number}." for number in range(1, most + 1)))
        rows = [(prediction.path, prediction.label, *_shares(prediction)) for prediction in result.predictions]
        print_table(columns, rows)
    print_skipped(result.skipped)
    if result.ignored:
        print_text(f"{result.ignored} file(s) that are never images ignored", note=True)


def _shares(prediction: ImagePrediction) -> list[str]:
    return [f"{label} {probability:.1%}" for label, probability in prediction.topk]


def _write_csv(path: Path, result: PredictionResult, topk: int) -> None:
    from convscope.storage.files import write_csv

    most = max((len(prediction.topk) for prediction in result.predictions), default=topk)
    ranks = [f"{name}_{number}" for number in range(1, most + 1) for name in ("label", "probability")]
    rows: list[tuple[str, ...]] = []
    for prediction in result.predictions:
        shares = [text for label, probability in prediction.topk for text in (label, f"{probability:.6g}")]
        rows.append((prediction.path, prediction.label, *shares, "", ""))
    padding = ("",) * (2 * most)
    rows += [(item.file, "", *padding, item.reason, item.remedy) for item in result.skipped]
    write_csv(path, ("path", "label", *ranks, "reason", "remedy"), rows)

"""`convscope predict`: the classes of pictures without labels. Imports no torch, and rich only to draw a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from convscope.cli.console import error_console, print_json, print_table
from convscope.cli.options import Json
from convscope.errors import DataError
from convscope.progress import Progress

if TYPE_CHECKING:
    from convscope.pictures import PicturePrediction
    from convscope.prediction import Answers


def predict(
    model: Annotated[str, typer.Argument(help="Run folder, model file, or a network with published weights.")],
    paths: Annotated[list[Path], typer.Argument(help="Pictures, folders and archives of pictures.")],
    topk: Annotated[int, typer.Option(help="Classes to name for each picture.")] = 3,
    csv: Annotated[Path | None, typer.Option(help="Write the answers to this file as well.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    as_json: Json = False,
) -> None:
    """Say what is on pictures, with probabilities."""
    from convscope.prediction import predict as classify

    answers = classify(model, paths, topk=topk, threads=threads, on_progress=_announce)
    if csv is not None:
        _write_csv(csv, answers, topk)
    if as_json:
        print_json(_to_json(answers))
    else:
        _print(answers)
    if not answers.predictions:
        raise DataError(f"none of {len(answers.skipped)} file(s) could be classified; the reasons are listed")


def _announce(progress: Progress) -> None:
    if progress.done == 0:  # the rest is over before one could read of it
        error_console().print(progress.stage, highlight=False, markup=False)


def _to_json(answers: Answers) -> dict[str, Any]:
    return {
        "predictions": [
            {
                "path": answer.path,
                "label": answer.label,
                "probability": answer.topk[0][1],
                "nearest": answer.topk[0][0],
                "unknown": answer.unknown,
                "topk": [{"label": label, "probability": probability} for label, probability in answer.topk],
            }
            for answer in answers.predictions
        ],
        "skipped": [{"path": item.file, "reason": item.reason, "remedy": item.remedy} for item in answers.skipped],
        "ignored": answers.ignored,
    }


def _print(answers: Answers) -> None:
    if answers.predictions:
        most = max(len(answer.topk) for answer in answers.predictions)
        columns = ("picture", "answer", *(f"{number}." for number in range(1, most + 1)))
        print_table(columns, [(answer.path, answer.label, *_shares(answer)) for answer in answers.predictions])
    if answers.skipped:
        error_console().print(f"{len(answers.skipped)} file(s) skipped:")
        rows = [(item.file, item.reason, item.remedy) for item in answers.skipped]
        print_table(("file", "reason", "remedy"), rows, console=error_console())
    if answers.ignored:
        error_console().print(f"{answers.ignored} file(s) that are never pictures ignored")


def _shares(answer: PicturePrediction) -> list[str]:
    return [f"{label} {probability:.1%}" for label, probability in answer.topk]


def _write_csv(path: Path, answers: Answers, topk: int) -> None:
    from convscope.runs import write_csv

    most = max((len(answer.topk) for answer in answers.predictions), default=topk)
    ranks = [f"{name}_{number}" for number in range(1, most + 1) for name in ("label", "probability")]
    rows: list[tuple[str, ...]] = []
    for answer in answers.predictions:
        shares = [text for label, probability in answer.topk for text in (label, f"{probability:.6g}")]
        rows.append((answer.path, answer.label, *shares, "", ""))
    padding = ("",) * (2 * most)
    rows += [(item.file, "", *padding, item.reason, item.remedy) for item in answers.skipped]
    write_csv(path, ("path", "label", *ranks, "reason", "remedy"), rows)

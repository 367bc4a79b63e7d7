"""What sections are made from and what they are: a RecordedRun goes in, a Section comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convscope.panels import read_panels
from convscope.results import EpochRecord, Panel
from convscope.runs import read_csv, read_history, read_json, read_thumbnails

Row = Mapping[str, str]

NOT_EVALUATED = "Left out: the run has not been measured on its test part yet (there is no results.json)."
NOT_RECORDED = "Left out: the run was made by a version that did not record it."


@dataclass(frozen=True)
class RecordedRun:
    """What a run folder holds, as far as the run has come.

    Args:
        name: of the run folder.
        facts: run.json.
        labels: picture id -> class name, from split.csv.
        results: results.json; None while the run is not finished.
        predictions: rows of predictions.csv, in data order; None while there are none.
        mistakes: rows of mistakes.csv, worst first; None while there are none.
        skipped: rows of skipped.csv.
        certificate: certificate.json; None where there is none.
        thumbnails: picture id -> uint8 [H, W, C]; not every picture has one.
        calibration: calibration.json; None where it was not recorded.
        augmentation: training pictures as augmentation changes them; None where there is none.
        inside: what the layers made of one picture; None where it was not recorded.
    """

    name: str
    facts: Mapping[str, Any]
    history: tuple[EpochRecord, ...]
    labels: Mapping[str, str]
    results: Mapping[str, Any] | None
    predictions: tuple[Row, ...] | None
    mistakes: tuple[Row, ...] | None
    skipped: tuple[Row, ...]
    thumbnails: Mapping[str, NDArray[np.uint8]]
    calibration: Mapping[str, Any] | None
    augmentation: tuple[Panel, ...] | None
    inside: tuple[Panel, ...] | None
    certificate: Mapping[str, Any] | None

    def picture(self, picture_id: str) -> NDArray[np.uint8]:
        """Return the small copy of a picture, an empty array when none was kept."""
        return self.thumbnails.get(picture_id, np.zeros((0, 0, 1), np.uint8))


@dataclass(frozen=True)
class Section:
    """One part of the page.

    Args:
        intro: one plain sentence that says what to see.
        panels: what is drawn, in this order.
        command: something to type, shown as such.
        missing: why there is nothing to draw, one line; panels are empty then.
    """

    title: str
    intro: str
    panels: tuple[Panel, ...] = ()
    command: str = ""
    missing: str = ""


def load_recorded_run(run: Path) -> RecordedRun:
    """Return what a run folder holds.

    Raises:
        RunError: there is no run.json, or a file cannot be read.
    """
    facts = read_json(run / "run.json")
    return RecordedRun(
        name=run.resolve().name,
        facts=facts,
        history=read_history(run),
        labels={row["picture"]: row["label"] for row in _rows(run / "split.csv") or ()},
        results=_json(run / "results.json"),
        certificate=_json(run / "certificate.json"),
        predictions=_rows(run / "predictions.csv"),
        mistakes=_rows(run / "mistakes.csv"),
        skipped=_rows(run / "skipped.csv") or (),
        thumbnails=read_thumbnails(run),
        calibration=_json(run / "calibration.json"),
        augmentation=read_panels(run / "augmentation.npz"),
        inside=read_panels(run / "inside.npz"),
    )


def _json(path: Path) -> Mapping[str, Any] | None:
    return read_json(path) if path.exists() else None


def _rows(path: Path) -> tuple[Row, ...] | None:
    return tuple(read_csv(path)) if path.exists() else None

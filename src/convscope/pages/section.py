"""The sections of a page, and the recorded run that the sections of a report are drawn from."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from convscope.evaluation.records import shown_order
from convscope.results.panels import Panel
from convscope.storage.files import read_csv, read_json
from convscope.storage.panels import read_panels
from convscope.storage.run_folder import read_history, read_thumbnails
from convscope.storage.run_start import read_start

Row = Mapping[str, str]
Source = TypeVar("Source")
Value = TypeVar("Value")


class RecordedRun:
    """The content of a run folder, finished or not. What the run has not recorded (yet) is None.

    Raises:
        RunError: there is no run.json, another version wrote it, or a file cannot be read.
    """

    def __init__(self, run: Path) -> None:
        def json(name: str) -> Mapping[str, Any] | None:
            return read_json(run / name) if (run / name).exists() else None

        def rows(name: str) -> tuple[Row, ...] | None:
            return tuple(read_csv(run / name)) if (run / name).exists() else None

        self.folder, self.name = run, run.resolve().name
        self.facts = read_start(run)
        self.history = read_history(run)
        self.labels = {row["image"]: row["label"] for row in rows("split.csv") or ()}
        """Image id -> class name."""
        self.skipped = rows("skipped.csv") or ()
        self.results = json("results.json")
        self.predictions = rows("predictions.csv")
        self.mistakes = rows("mistakes.csv")
        """Worst first."""
        self.calibration = json("calibration.json")
        self.certificate = json("certificate.json")
        self.plan = json("plan.json")
        self.augmentation = read_panels(run / "augmentation.npz")
        self.inside = read_panels(run / "inside.npz")
        self._thumbnails = read_thumbnails(run)

    def image(self, image_id: str) -> NDArray[np.uint8]:
        """Return the thumbnail of an image, uint8 [H, W, C]; an empty array if it has none."""
        return self._thumbnails.get(image_id, np.zeros((0, 0, 1), np.uint8))

    @property
    def split(self) -> str:
        """Return the split that the results are measured on: "test", or "validation" if there is no test split."""
        if self.results is not None:
            return str(self.results["split"])
        return "test" if any(self.facts["data"]["class_counts"]["test"]) else "validation"

    def shown_predictions(self) -> tuple[Row, ...]:
        """Return the rows of predictions.csv in the order in which a page shows them."""
        rows = evaluated(self.predictions)
        return tuple(rows[i] for i in shown_order(len(rows), self.facts["config"]["train"]["seed"]))


@dataclass(frozen=True)
class Section:
    """One section of a page.

    Args:
        intro: one plain sentence that tells the reader what to look for.
        panels: in the order of the page.
        command: a command line for the reader to type.
        missing: why there are no panels, one line.
    """

    title: str
    intro: str
    panels: tuple[Panel, ...] = ()
    command: str = ""
    missing: str = ""


class LeftOut(Exception):
    """Why a section has no panels, one line."""


def titled(
    title: str, intro: str | Callable[[Any], str], *, command: Callable[[Any], str] = lambda _: ""
) -> Callable[[Callable[[Source], Iterable[Panel]]], Callable[[Source], Section]]:
    """Return a decorator: of a function that computes panels, it makes one that returns the section with them.

    The function raises LeftOut if the section has to be left out. An intro may be a function of what is shown, too.
    `command` returns the command line to show.
    """

    def decorate(panels_of: Callable[[Source], Iterable[Panel]]) -> Callable[[Source], Section]:
        def section(source: Source) -> Section:
            text = intro if isinstance(intro, str) else intro(source)
            try:
                panels = tuple(panels_of(source))
            except LeftOut as reason:
                return Section(title, text, missing=str(reason))
            return Section(title, text, panels, command(source), missing="" if panels else "There are none.")

        return section

    return decorate


def evaluated(value: Value | None) -> Value:
    """Return something that only a finished run has, or leave the section out."""
    if value is None:
        raise LeftOut("Left out: the run has not been evaluated yet (there is no results.json).")
    return value


def recorded(value: Value | None) -> Value:
    """Return something that older versions did not record, or leave the section out."""
    if value is None:
        raise LeftOut("Left out: the version that made the run did not record it.")
    return value

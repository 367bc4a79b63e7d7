"""An experiment carried out: measured, drawn as a page, and written down."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convscope import __version__
from convscope.errors import unknown_name
from convscope.lab import LABS
from convscope.lab.experiment import Setting
from convscope.progress import OnProgress, ignore_progress
from convscope.report.page import Heading, render_page
from convscope.report.section import Section
from convscope.results import Panel
from convscope.runs import create_folder, write_bytes, write_json

QUICK_SEEDS = 2


@dataclass(frozen=True)
class Answer:
    """What an experiment found and where it is written; `convscope lab --json` prints all but the panels.

    Args:
        seconds: what it took.
        page: lab.html; beside it lies lab.json.
    """

    lab: str
    question: str
    answer: str
    method: str
    seeds: int
    quick: bool
    seconds: float
    page: str
    numbers: Mapping[str, Any]
    panels: tuple[Panel, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the content of lab.json."""
        return {name: value for name, value in vars(self).items() if name != "panels"}


def list_labs() -> list[dict[str, str]]:
    """Return the experiments of the laboratory: name and question of each."""
    return [{"lab": name, "question": each.question} for name, each in LABS.items()]


def lab(
    name: str,
    *,
    seeds: int | None = None,
    quick: bool = False,
    out: str | Path | None = None,
    jobs: int | None = None,
    on_progress: OnProgress = ignore_progress,
) -> Answer:
    """Carry out an experiment and write what it found.

    Args:
        seeds: networks of each kind that are trained; None is the experiment's own number, or 2 with `quick`.
        quick: few pictures and one epoch: to see that it works, not to believe the answer.
        out: folder for lab.html and lab.json; default: runs/lab-NAME.
        jobs: networks trained at once; None is one a processor. The answer does not depend on it.

    Raises:
        UsageError: there is no such experiment, or too few seeds.
        Interrupted: a stop was asked for; nothing is kept.
    """
    if name not in LABS:
        raise unknown_name("experiment", name, LABS)
    experiment = LABS[name]
    setting = Setting(seeds or (QUICK_SEEDS if quick else experiment.seeds), quick, jobs)
    start = time.perf_counter()
    finding = experiment.find(setting, on_progress)
    folder = Path(out or Path("runs") / f"lab-{name}")
    create_folder(folder)
    found = Answer(
        lab=name,
        question=experiment.question,
        answer=finding.answer,
        method=finding.method,
        seeds=setting.seeds,
        quick=quick,
        seconds=time.perf_counter() - start,
        page=str(folder / "lab.html"),
        numbers=finding.numbers,
        panels=finding.panels,
    )
    write_json(folder / "lab.json", found.to_json())
    write_bytes(Path(found.page), _render(experiment.look, found))
    return found


def _render(look: str, found: Answer) -> bytes:
    warning = "A quick trial, too small to believe. " if found.quick else ""
    heading = Heading(
        title=found.question,
        headline=found.answer,
        origin=f"{warning}convscope lab {found.lab}, {found.seconds:.0f} s, convscope {__version__}",
    )
    method = Section("How it was measured", found.method, command=f"convscope lab {found.lab} --seeds {found.seeds}")
    return render_page(heading, {"measured": Section("What was measured", look, found.panels), "method": method})

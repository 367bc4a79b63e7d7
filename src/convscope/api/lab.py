"""`lab`: answer a question about convolutional networks by an experiment."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convscope import __version__
from convscope.device import process_unchanged
from convscope.errors import unknown_name
from convscope.experiments import LABS
from convscope.experiments.experiment import Setting
from convscope.pages.page import render_page
from convscope.pages.section import Section
from convscope.progress import OnProgress, ignore_progress
from convscope.results.panels import Panel
from convscope.storage.files import create_folder, write_bytes, write_json
from convscope.training.interrupts import interruptible

QUICK_SEEDS = 2


@dataclass(frozen=True)
class Answer:
    """What an experiment found and where it was written; `convscope lab --json` prints everything but the panels.

    Args:
        seconds: time the experiment took.
        page: path of lab.html; lab.json is in the same folder.
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
    """Return the name and the question of each experiment."""
    return [{"lab": name, "question": each.question} for name, each in LABS.items()]


@process_unchanged()
def lab(
    name: str,
    *,
    seeds: int | None = None,
    quick: bool = False,
    out: str | Path | None = None,
    jobs: int | None = None,
    on_progress: OnProgress = ignore_progress,
) -> Answer:
    """Run an experiment and write its answer.

    Args:
        seeds: networks trained of each variant; None: the experiment's default, or 2 with `quick`.
        quick: few images and one epoch: shows that it works, not what the answer is.
        out: folder for lab.html and lab.json; default: runs/lab-NAME.
        jobs: networks trained at the same time; None: one per core. It does not change the answer.

    Raises:
        UsageError: the experiment is unknown, or there are too few seeds.
        Interrupted: the user asked for a stop; nothing is kept.
    """
    if name not in LABS:
        raise unknown_name("experiment", name, LABS)
    experiment = LABS[name]
    default = QUICK_SEEDS if quick else experiment.seeds
    setting = Setting(default if seeds is None else seeds, quick, jobs)
    start = time.perf_counter()
    with interruptible("stopped; an unfinished experiment keeps nothing: run it again"):
        finding = experiment.run(setting, on_progress)
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
    write_bytes(Path(found.page), _render(experiment.intro, found))
    return found


def _render(intro: str, found: Answer) -> bytes:
    """Return lab.html: the answer, the measurements and how they were made."""
    warning = "A quick trial, too small to believe. " if found.quick else ""
    method = Section("How it was measured", found.method, command=f"convscope lab {found.lab} --seeds {found.seeds}")
    return render_page(
        {"measured": Section("What was measured", intro, found.panels), "method": method},
        title=found.question,
        headline=found.answer,
        origin=f"{warning}convscope lab {found.lab}, {found.seconds:.0f} s, convscope {__version__}",
    )

"""`train` and `resume`: from data to an evaluated run."""

from pathlib import Path
from typing import Unpack

from convscope.progress import OnProgress, Progress, ignore_progress
from convscope.results.run import RunResult
from convscope.run.configure import Options, choose_network, make_config, takes_options
from convscope.run.start import resume_run, run_config


@takes_options
def train(
    data: str | Path,
    *,
    model: str | None = None,
    out: str | Path | None = None,
    report: bool = True,
    on_progress: OnProgress = ignore_progress,
    **options: Unpack[Options],
) -> RunResult:
    """Train a network, measure it on test images and write a report.

    Args:
        data: a data set's name, or the path of a folder, archive or CSV.
        model: see `convscope.list_models`; None is the stack that is given, or `auto`: on colour photos the head of
            `efficientnet_lite0` is fitted, and with `pretrained=False` our own network is trained.
        out: run folder to create; None makes a new one in runs/.
        report: write report.html.

    Raises:
        ConvscopeError: see errors.py; nothing half-written stays behind when the data or options are refused.
    """
    config = make_config(data, model, **options)
    if config.model.name == "auto":
        config, line = choose_network(config, options)
        if line:
            on_progress(Progress(line, 0, None))
    return run_config(config, out=out, report=report, on_progress=on_progress)


def resume(
    run: str | Path,
    *,
    data: str | None = None,
    model: str | None = None,
    report: bool = True,
    on_progress: OnProgress = ignore_progress,
) -> RunResult:
    """Continue a run from its newest whole checkpoint; the result is bit-identical to a run without interruption.

    Args:
        data: where the run's images are now, if they were moved; they must be the same.
        model: what the caller believes the run to be; checked when given.

    Raises:
        ResumeMismatch: the data set, its classes or the model are not those the run was started with.
    """
    return resume_run(Path(run), data=data, model=model, report=report, on_progress=on_progress)

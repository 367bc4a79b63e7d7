"""Starting a run from its configuration, or resuming it from a checkpoint."""

from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path

from convscope.config import RunConfig
from convscope.device import process_unchanged
from convscope.errors import ResumeMismatch, command
from convscope.progress import OnProgress, Progress, ignore_progress
from convscope.results.run import RunResult
from convscope.run.finish import finish
from convscope.run.fit_memory import fit_into_memory
from convscope.run.own_data import check_there, move_data
from convscope.run.prepare import prepare
from convscope.run.record import check_same, note_resume, read_plan, write_plan, write_start
from convscope.storage.run_folder import check_out, create_run_folder, locked, read_config
from convscope.storage.run_start import read_start
from convscope.training.interrupts import interruptible, stop_on_signals


@process_unchanged()
def run_config(
    config: RunConfig,
    *,
    out: str | Path | None = None,
    report: bool = True,
    on_progress: OnProgress = ignore_progress,
) -> RunResult:
    """Start the run of a configuration and finish it.

    Args:
        out: run folder to create; None creates a new one in runs/.
        report: write report.html.

    Raises:
        ConvscopeError: see errors.py; if data or options are refused, nothing is written.
    """
    if out is not None:
        check_out(Path(out))
    with (
        interruptible("stopped before training began; nothing was written: run it again"),
        ExitStack() as stack,
    ):
        prepared, plan = fit_into_memory(prepare(config, on_progress))
        if config.compute.memory is not None or config.train.auto_batch:
            on_progress(Progress(f"memory: {plan.why}", 0, None))
        with stop_on_signals():  # a run can be resumed once all of its start is written
            run = create_run_folder(out, default_name=f"{prepared.images.name}-{config.model.name}")
            stack.enter_context(locked(run))
            write_plan(run, plan)
            write_start(run, prepared)
            stack.enter_context(_resumable(run))
        return finish(run, prepared, plan, report=report, resume=False, on_progress=on_progress)


@process_unchanged()
def resume_run(
    run: Path,
    *,
    data: str | None = None,
    model: str | None = None,
    report: bool = True,
    on_progress: OnProgress = ignore_progress,
) -> RunResult:
    """Continue a run from its newest intact checkpoint; arguments and errors are those of `convscope.resume`."""
    config = read_config(run)
    if model is not None and model != config.model.name:
        raise ResumeMismatch(f"{run} trains model {config.model.name!r}, not {model!r}; start a new run for it")
    if data is not None:
        config = move_data(run, config, data)
    check_there(run, config, "train", "--resume")
    threads = config.compute.threads or read_start(run)["hardware"]["threads"]  # more or fewer would round differently
    config = replace(config, compute=replace(config.compute, threads=threads))
    with locked(run), _resumable(run):
        prepared = prepare(config, on_progress, run=run)
        check_same(run, prepared)
        if note := note_resume(run, prepared):
            on_progress(Progress(note, 0, None))
        plan = read_plan(run, config)
        return finish(run, prepared, plan, report=report, resume=True, on_progress=on_progress)


def _resumable(run: Path) -> AbstractContextManager[None]:
    return interruptible(f"stopped; go on with: {command('train', '--resume', run)}")

"""Runs in processes of their own: one after another or several at once, with one progress display.

A process for each run keeps its peak memory its own and a run that dies its own affair. The child reads the run's
configuration from stdin and writes one JSON object a line to stdout: progress, then the error it ended with, if any.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from convscope.api import resume, run_config
from convscope.comparison.recorded import name_configs
from convscope.config import RunConfig, config_from_json, config_to_json
from convscope.device import choose_device, threads_for_step
from convscope.errors import ConvscopeError, Interrupted, TrainingError, UsageError
from convscope.processors import available_processors, jobs_at_once
from convscope.progress import OnProgress, Progress
from convscope.runs import locked, read_json
from convscope.series.memory import Need, predict_needs
from convscope.series.plan import is_finished, run_folder
from convscope.training.interrupts import stop_on_signals

POLL_SECONDS = 0.2
_EPOCH = re.compile(r"epoch (\d+)/(\d+)")
_CHILD = (sys.executable, "-c", "from convscope.series.processes import run_child; run_child()")


def train_missing(
    configs: Sequence[RunConfig], folder: Path, *, jobs: int | None, on_progress: OnProgress
) -> list[Path]:
    """Train the runs that are not finished yet and return the folders of all, in the order of `configs`.

    Args:
        jobs: runs at once, sharing the processor cores; None is one a core where memory allows, as predicted, and one
            on a GPU.

    Raises:
        UsageError: `jobs` is less than 1.
        ConvscopeError: a run failed, or a stop was asked for; what is finished stays, and the rest can go on later.
    """
    if jobs is not None and jobs < 1:
        raise UsageError(f"jobs {jobs} is too small; --jobs takes 1 or more")
    missing = [config for config in configs if not is_finished(run_folder(folder, config))]
    if missing:
        needs = predict_needs(missing, on_progress)
        jobs = choose_jobs(missing, needs, jobs)
        display = _Display(configs, missing, on_progress)
        with stop_on_signals() as stop_requested, ThreadPoolExecutor(jobs) as pool:
            children = [
                _Child(_with_threads(config, need, jobs), run_folder(folder, config))
                for config, need in zip(missing, needs, strict=True)
            ]
            futures = [pool.submit(child.run, display) for child in children]
            pending: set[Future[None]] = set(futures)
            while pending and not stop_requested():
                done, pending = wait(pending, POLL_SECONDS, FIRST_EXCEPTION)
                if any(future.exception() for future in done):
                    break
            for future, child in zip(futures, children, strict=True):
                future.cancel()
                child.stop()
        for future in futures:
            if not future.cancelled() and not isinstance(future.exception(), Interrupted | None):
                future.result()
        if stop_requested():
            raise Interrupted(f"stopped; the state is saved in {folder}: the same command goes on from there")
    return [run_folder(folder, config) for config in configs]


def choose_jobs(configs: Sequence[RunConfig], needs: Sequence[Need], jobs: int | None) -> int:
    """Return how many runs are trained at once: so many that the largest of them fit into the free memory together."""
    if jobs is not None:
        return jobs
    if any(choose_device(config.train.device).type != "cpu" for config in configs):
        return 1
    return jobs_at_once([need.process_bytes for need in needs])


def _with_threads(config: RunConfig, need: Need, jobs: int) -> RunConfig:
    """Return the run with its share of the cores, if it has to share them and did not say what it wants.

    A tiny network takes one thread, and a run that is alone chooses for itself.
    """
    if jobs == 1 or config.train.threads is not None:
        return config
    share = max(1, available_processors() // jobs)
    if need.step_macs is not None:
        share = threads_for_step(need.step_macs) or share
    return replace(config, train=replace(config.train, threads=share))


class _Child:
    """One run in a process of its own."""

    def __init__(self, config: RunConfig, out: Path) -> None:
        self.config, self.out = config, out
        self._process: subprocess.Popen[str] | None = None
        self._stopped = False
        self._lock = threading.Lock()

    def stop(self) -> None:
        """Ask the run to save its state and end, once."""
        with self._lock:
            if not self._stopped and self._process is not None and self._process.poll() is None:
                self._process.terminate()
            self._stopped = True

    def run(self, display: _Display) -> None:
        """See the run to its end.

        Raises:
            ConvscopeError: what the run ended with.
        """
        with tempfile.TemporaryFile("w+") as errors:
            with self._lock:
                if self._stopped:
                    raise Interrupted("not begun")
                self._process = subprocess.Popen(  # a session of its own: Ctrl-C reaches it through us, once
                    _CHILD, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
                    start_new_session=True,
                )  # fmt: skip
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            with self._process as process, self._process.stdin as stdin:
                stdin.write(json.dumps({"config": config_to_json(self.config), "out": str(self.out)}))
                stdin.close()
                failure = None
                for line in self._process.stdout:
                    message = json.loads(line)
                    failure = message.get("error", failure)
                    if "progress" in message:
                        display.show(self.config, Progress(**message["progress"]))
            if self._stopped and process.returncode == -signal.SIGTERM:
                raise Interrupted("stopped before it could save anything")  # and so not what went wrong
            if process.returncode:
                errors.seek(0)
                raise _error(self.out, process.returncode, failure, errors.read())
        display.finish(self.config, self.out)


def _error(run: Path, code: int, failure: str | None, printed: str) -> ConvscopeError:
    if failure is None:
        lines = printed.strip().splitlines()
        ended = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return TrainingError(
            f"{run}: its process {ended}{': ' + lines[-1] if lines else ''}; the same command goes on from there"
        )
    kind = {UsageError.exit_code: UsageError, Interrupted.exit_code: Interrupted}.get(code, TrainingError)
    return kind(f"{run}: {failure}")


def run_child() -> None:
    """Train the run that stdin describes, or go on with it."""
    task = json.load(sys.stdin)
    out, messages = Path(task["out"]), sys.stdout
    sys.stdout = sys.stderr

    def tell(**message: Any) -> None:  # noqa: ANN401
        messages.write(json.dumps(message) + "\n")
        messages.flush()

    def on_progress(progress: Progress) -> None:
        tell(progress=asdict(progress) | {"values": dict(progress.values)})

    try:
        if (out / "run.json").exists():
            resume(out, report=False, on_progress=on_progress)
        else:
            if out.exists():  # killed before it began
                with locked(out):
                    pass
                shutil.rmtree(out)
            run_config(config_from_json(task["config"]), out=out, report=False, on_progress=on_progress)
    except ConvscopeError as error:
        tell(error=str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        tell(error="stopped before training began")
        sys.exit(Interrupted.exit_code)


@dataclass
class _Display:
    """Gathers the progress of all runs into one bar, in epochs, and one line for each that is finished."""

    configs: Sequence[RunConfig]
    missing: Sequence[RunConfig]
    on_progress: OnProgress
    epochs: dict[str, float] = field(default_factory=dict)
    running: dict[str, str] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def name(self, config: RunConfig) -> str:
        """Return a run's name: its network's, with its seed."""
        seedless = [replace(c, train=replace(c.train, seed=0, threads=None)) for c in (config, *self.configs)]
        distinct = list(dict.fromkeys(seedless))
        return f"{name_configs(distinct)[0]} seed {config.train.seed}"

    def show(self, config: RunConfig, progress: Progress) -> None:
        """Take note of how far a run has come."""
        name, epoch = self.name(config), _EPOCH.match(progress.stage)
        with self.lock:
            if epoch:
                self.epochs[name] = int(epoch[1]) - 1 + progress.done / (progress.total or 1)
                self.running[name] = f"{epoch[1]}/{epoch[2]}"
            self._draw()

    def finish(self, config: RunConfig, out: Path) -> None:
        """Say that a run is finished, and its accuracy."""
        name = self.name(config)
        accuracy = read_json(out / "results.json")["accuracy"]["value"]
        with self.lock:
            self.epochs[name] = config.train.epochs
            self.running.pop(name, None)
            self.on_progress(Progress(name, 1, 1, "run", {"accuracy": f"{accuracy:.2%}"}))
            self._draw(finished=True)

    def _draw(self, *, finished: bool = False) -> None:
        total = sum(config.train.epochs for config in self.missing)
        done = int(sum(self.epochs.values()))
        stage = f"training {len(self.missing)} of {len(self.configs)} runs"
        self.on_progress(Progress(stage, done if finished else min(done, total - 1), total, "epochs", {**self.running}))

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
from dataclasses import asdict, dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import torch

from convscope.comparison.plan import is_finished, run_folder
from convscope.comparison.recorded import name_configs
from convscope.config import ComputeConfig, DataConfig, RunConfig, check_range, config_from_json, config_to_json
from convscope.cpu import available_processors, jobs_at_once
from convscope.data.batches import CHUNK_BYTES
from convscope.data.load import load_images
from convscope.device import choose_device, memory_in_use_bytes, threads_for_step
from convscope.errors import ConvscopeError, Interrupted, TrainingError, UsageError, describe_exit
from convscope.evaluation.predict import evaluation_batch_size
from convscope.memory.predict import budget_of_run
from convscope.models.spec import InputShape
from convscope.progress import OnProgress, Progress
from convscope.run.start import resume_run, run_config
from convscope.storage.files import read_json
from convscope.storage.run_folder import locked
from convscope.training.interrupts import stop_on_signals

POLL_SECONDS = 0.2
CHUNKS = 3
"""Pieces of CHUNK_BYTES with prepared images: one in use, one made ahead, and the uint8 images they come from."""
_EPOCH = re.compile(r"epoch (\d+)/(\d+)")
_CHILD = (sys.executable, "-c", "from convscope.comparison.runner import run_child; run_child()")


def train_missing(
    configs: Sequence[RunConfig], folder: Path, *, jobs: int | None, on_progress: OnProgress
) -> list[Path]:
    """Train the runs that are not finished yet and return the folders of all, in the order of `configs`.

    Args:
        jobs: runs at once, sharing the processor cores; None is one a core where memory allows, as predicted, and one
            on a GPU.

    Raises:
        UsageError: `jobs` is less than 1.
        ConvscopeError: a run failed; what is finished stays, and the rest can go on later.
        KeyboardInterrupt: a stop was asked for; likewise.
    """
    check_range("jobs", jobs, least=1)
    missing = [config for config in configs if not is_finished(run_folder(folder, config))]
    if missing:
        needs = predict_needs(missing, on_progress)
        jobs = choose_jobs(missing, needs, jobs)
        display = _Display(len(configs), missing, on_progress)
        name_of = dict(zip(configs, _names(configs), strict=True))
        with stop_on_signals() as stop_requested, ThreadPoolExecutor(jobs) as pool:
            children = [
                _Child(name_of[config], _with_threads(config, need, jobs), run_folder(folder, config))
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
            wait(pending)
            for future in futures:
                if not future.cancelled() and not isinstance(future.exception(), Interrupted | None):
                    future.result()
    return [run_folder(folder, config) for config in configs]


@dataclass(frozen=True)
class Need:
    """What one run takes; None where nobody can say.

    Args:
        process_bytes: the most memory of its process.
        step_macs: multiply-accumulate operations of a step, forward, for the whole batch.
    """

    process_bytes: int | None
    step_macs: int | None


def predict_needs(configs: Sequence[RunConfig], on_progress: OnProgress) -> list[Need]:
    """Return what each run will take; the data are read once, so that the runs find photos already decoded.

    A process takes what this one takes now, for the interpreter and the libraries; the images twice, as they are read
    and split; and a step of training or, where that is more, a batch of evaluation.
    """
    begin = memory_in_use_bytes(torch.device("cpu"))
    sizes: dict[DataConfig, tuple[int, InputShape, int]] = {}
    needs = []
    for config in configs:
        if config.data not in sizes:
            images = load_images(config.data, on_progress)
            sizes[config.data] = images.images.nbytes, images.shape, images.num_classes
        images_bytes, shape, num_classes = sizes[config.data]
        step = budget_of_run(config, shape, num_classes)
        evaluation = budget_of_run(config, shape, num_classes, batch_size=evaluation_batch_size(4 * prod(shape)))
        if step is None or evaluation is None:
            needs.append(Need(None, None))
            continue
        network = max(step.memory.training_peak_bytes, evaluation.memory.inference_peak_bytes)
        needs.append(Need(begin + 2 * images_bytes + CHUNKS * CHUNK_BYTES + network, step.macs * step.batch_size))
    return needs


def choose_jobs(configs: Sequence[RunConfig], needs: Sequence[Need], jobs: int | None) -> int:
    """Return how many runs are trained at once: as many as fit into the free memory even if they are the largest."""
    if jobs is not None:
        return jobs
    if any(choose_device(config.compute.device).type != "cpu" for config in configs):
        return 1
    return jobs_at_once([need.process_bytes for need in needs])


def _with_threads(config: RunConfig, need: Need, jobs: int) -> RunConfig:
    """Return the run with its share of the cores, if it has to share them and did not say what it wants.

    A tiny network takes one thread, and a run that is alone chooses for itself.
    """
    if jobs == 1 or config.compute.threads is not None:
        return config
    share = max(1, available_processors() // jobs)
    if need.step_macs is not None:
        share = threads_for_step(need.step_macs) or share
    return replace(config, compute=replace(config.compute, threads=share))


class _Child:
    """One run in a process of its own."""

    def __init__(self, name: str, config: RunConfig, out: Path) -> None:
        self.name, self.config, self.out = name, config, out
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
                        display.show(self.name, Progress(**message["progress"]))
            if self._stopped and process.returncode == -signal.SIGTERM:
                raise Interrupted("stopped before it could save anything")  # and so not what went wrong
            if process.returncode:
                errors.seek(0)
                raise _error(self.out, process.returncode, failure, errors.read())
        accuracy = read_json(self.out / "results.json")["accuracy"]["value"]
        display.finish(self.name, self.config.train.epochs, accuracy)


def _error(run: Path, code: int, failure: str | None, printed: str) -> ConvscopeError:
    if failure is None:
        return TrainingError(f"{run}: its process {describe_exit(code, printed)}; the same command goes on from there")
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
            resume_run(out, report=False, on_progress=on_progress)
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


class _Display:
    """Gathers the progress of all runs into one bar, in epochs, and one line for each that is finished."""

    def __init__(self, runs: int, missing: Sequence[RunConfig], on_progress: OnProgress) -> None:
        self._stage, self._total = f"training {len(missing)} of {runs} runs", sum(c.train.epochs for c in missing)
        self._on_progress = on_progress
        self._epochs: dict[str, float] = {}
        self._running: dict[str, str] = {}
        self._lock = threading.Lock()

    def show(self, name: str, progress: Progress) -> None:
        """Take note of the progress of a run."""
        epoch = _EPOCH.match(progress.stage)
        with self._lock:
            if epoch:
                self._epochs[name] = int(epoch[1]) - 1 + progress.done / (progress.total or 1)
                self._running[name] = f"{epoch[1]}/{epoch[2]}"
            self._draw(self._total - 1)

    def finish(self, name: str, epochs: int, accuracy: float) -> None:
        """Say that a run is finished, and its accuracy."""
        with self._lock:
            self._epochs[name] = epochs
            self._running.pop(name, None)
            self._on_progress(Progress(name, 1, 1, "run", {"accuracy": f"{accuracy:.2%}"}))
            self._draw(self._total)

    def _draw(self, most: int) -> None:
        done = min(int(sum(self._epochs.values())), most)
        self._on_progress(Progress(self._stage, done, self._total, "epochs", {**self._running}))


def _names(configs: Sequence[RunConfig]) -> list[str]:
    """Return the name of each run: its network's, with its seed."""
    seedless = [replace(c, train=replace(c.train, seed=0), compute=ComputeConfig()) for c in configs]
    distinct = list(dict.fromkeys(seedless))
    label_of = dict(zip(distinct, name_configs(distinct), strict=True))
    return [f"{label_of[key]} seed {config.train.seed}" for key, config in zip(seedless, configs, strict=True)]

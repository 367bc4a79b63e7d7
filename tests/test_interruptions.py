"""Runs that are killed, stopped, resumed or started twice: the result is that of a run nobody touched."""

from __future__ import annotations

import json
import multiprocessing
import random
import signal
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.numpy import load_file

import convscope
from convscope.errors import ConvscopeError, Interrupted, ResumeMismatch
from convscope.progress import Progress
from convscope.run.configure import make_config
from convscope.storage.files import read_json, write_json
from convscope.storage.run_folder import read_config, read_history

KILLS, KILLS_IN_A_CHAIN, TERMINATIONS, RACES = 20, 5, 10, 20
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["convscope.api.train", "sklearn.model_selection"]
)  # each session starts with torch imported
SETTINGS: dict[str, Any] = {
    "model": "cnn-small",
    "epochs": 3,
    "batch_size": 32,
    "per_class": 60,
    "augment": ("crop", "rotate"),
    "threads": 1,
}
RUN = [sys.executable, "-m", "convscope", "train"]
OPTIONS = [
    "--model",
    "cnn-small",
    "--epochs",
    "3",
    "--batch-size",
    "32",
    "--per-class",
    "60",
    "--augment",
    "crop,rotate",
    "--threads",
    "1",
    "--no-report",
]


def sha(run: Path) -> dict[str, bytes]:
    return {name: value.tobytes() for name, value in load_file(run / "model.safetensors").items()}


def facts(run: Path) -> tuple[object, ...]:
    """Return all of a run that must not depend on interruptions: weights, history and results without times."""
    history = [(r.train_loss, r.train_accuracy, r.validation_loss, r.lr, r.examples_seen) for r in read_history(run)]
    results = read_json(run / "results.json")
    kept = {k: v for k, v in results.items() if k in ("accuracy", "loss", "confusion", "split_sha256", "best_epoch")}
    return sha(run), history, kept, (run / "predictions.csv").read_text()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "whole"
    subprocess.run([*RUN, "mnist5k", *OPTIONS, "--out", str(run)], check=True, capture_output=True)
    return run


def wait_for(path: Path, pattern: str, process: subprocess.Popen[bytes], n: int) -> None:
    """Return when n files match, or the process has ended."""
    deadline = time.monotonic() + 120
    while len(list(path.glob(pattern))) < n and process.poll() is None and time.monotonic() < deadline:
        select_pause()


def select_pause() -> None:
    signal.sigtimedwait([], 0.005)  # yields the core to the process that is waited for


def sit(run: str, settings: dict[str, Any] | None) -> None:
    """Start (with settings) or resume the run in this process; exit codes as those of the command line."""
    try:
        if settings is None:
            convscope.resume(run, report=False)
        else:
            convscope.train(out=run, report=False, **settings)
    except ConvscopeError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)


def start(run: Path, settings: dict[str, Any] | None) -> BaseProcess:
    process = FORKS.Process(target=sit, args=(str(run), settings))
    process.start()
    return process


def finish(process: BaseProcess) -> int | None:
    process.join(120)
    return process.exitcode


@pytest.mark.slow
@pytest.mark.parametrize("chain", range(KILLS // KILLS_IN_A_CHAIN))
def test_killed_at_random_instants_and_resumed_is_bit_identical(
    uninterrupted: Path, tmp_path: Path, chain: int
) -> None:
    """Cases 33 and 34: SIGKILL at any time after the run began; with a save at every step many fall inside a save."""
    rng, run = random.Random(chain), tmp_path / "run"
    settings = {"data": "mnist5k", "checkpoint_steps": 1 + chain % 3, **SETTINGS}
    process, killed = start(run, settings), 0
    while killed < KILLS_IN_A_CHAIN:
        deadline = time.monotonic() + 120
        while process.is_alive() and not list(run.glob("checkpoints/step-*")) and time.monotonic() < deadline:
            process.join(0.01)
        process.join(rng.uniform(0.0, 0.6))  # anywhere from reading the data to training
        process.kill()
        code = finish(process)
        if code == 0:  # it was done; the next kill meets a new run
            assert facts(run) == facts(uninterrupted)
            run = run.with_name(f"{run.name}+")
            process = start(run, settings)
            continue
        assert code == -signal.SIGKILL
        killed += 1
        process = start(run, None)
    assert finish(process) == 0
    assert facts(run) == facts(uninterrupted)
    assert not list(run.rglob("*.tmp*"))


@pytest.mark.slow
def test_terminated_and_resumed_is_bit_identical(uninterrupted: Path, tmp_path: Path) -> None:
    """Case 38, again and again: SIGTERM at random instants of training, one after the other in the same run."""
    run, rng = tmp_path / "run", random.Random(0)
    settings: dict[str, Any] | None = {"data": "mnist5k", "checkpoint_steps": 5, **SETTINGS}
    stopped = 0
    while stopped < TERMINATIONS:
        before = {path.name for path in run.glob("checkpoints/step-*")}
        process = start(run, settings)
        deadline = time.monotonic() + 120
        while {p.name for p in run.glob("checkpoints/step-*")} <= before and process.is_alive():
            assert time.monotonic() < deadline
            process.join(0.005)
        process.join(rng.uniform(0.0, 0.02))
        process.terminate()
        code = finish(process)
        if code == 0:  # it was done; the next round is a new run
            assert facts(run) == facts(uninterrupted)
            run = run.with_name(f"{run.name}+")
            settings = {"data": "mnist5k", "checkpoint_steps": 5, **SETTINGS}
            continue
        assert code == 130
        stopped, settings = stopped + 1, None
    assert finish(start(run, None)) == 0
    assert facts(run) == facts(uninterrupted)


@pytest.mark.slow
def test_of_two_trainers_on_one_folder_exactly_one_wins(tmp_path: Path) -> None:
    """Case 43."""
    settings = {"data": "digits", "model": "mlp", "epochs": 1, "per_class": 5, "threads": 1}
    for race in range(RACES):
        run = tmp_path / str(race)
        rivals = [start(run, settings), start(run, settings)]
        won, lost = sorted(finish(rival) or 0 for rival in rivals)
        assert won == 0
        assert lost in (1, 2)  # the folder was locked, or, where one began much later, no longer empty
        assert read_json(run / "results.json")["epochs"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_resume(uninterrupted: Path, tmp_path: Path, number: signal.Signals) -> None:
    """Case 38."""
    run = tmp_path / "run"
    command = [*RUN, "mnist5k", *OPTIONS, "--out", str(run)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        wait_for(run, "checkpoints/step-*", process, 1)
        process.send_signal(number)
        _, message = process.communicate(timeout=60)
    assert process.returncode == 130, message
    assert f"convscope train --resume {run}" in " ".join(message.decode().split())
    subprocess.run([*RUN, "--resume", str(run), "--no-report"], check=True, capture_output=True)
    assert facts(run) == facts(uninterrupted)


def test_a_run_whose_batch_size_was_chosen_is_resumed_bit_identically(tmp_path: Path) -> None:
    settings = {**SETTINGS, "data": "mnist5k", "batch_size": "auto", "memory": "64GiB", "threads": None}
    convscope.train(out=tmp_path / "whole", report=False, **settings)

    shown: list[str] = []

    def stop(progress: Progress) -> None:
        if progress.stage == "epoch 1/3" and "epoch 1/3" not in shown:
            signal.raise_signal(signal.SIGTERM)
        shown.append(progress.stage)

    with pytest.raises(Interrupted):
        convscope.train(out=tmp_path / "stopped", report=False, on_progress=stop, **settings)
    convscope.resume(tmp_path / "stopped", report=False)
    assert read_config(tmp_path / "stopped").train.batch_size == 16  # the largest that leaves 32 steps
    assert facts(tmp_path / "stopped") == facts(tmp_path / "whole")


def test_a_finished_run_resumes_to_itself(uninterrupted: Path) -> None:
    before = facts(uninterrupted)
    result = convscope.resume(uninterrupted, report=False)
    assert facts(uninterrupted) == before
    assert result.epochs == 3


def test_a_run_resumed_on_another_machine_keeps_its_threads_and_says_so(tmp_path: Path) -> None:
    run, threads = tmp_path / "run", set[int]()
    convscope.train("digits", model="mlp", epochs=1, per_class=20, out=run, report=False)
    recorded = read_json(run / "run.json")
    assert recorded["hardware"]["capability"].startswith(torch.backends.cpu.get_cpu_capability())
    assert "resumed" not in recorded

    def resumed(hardware: dict[str, Any]) -> tuple[list[str], list[str]]:
        write_json(run / "run.json", recorded | {"hardware": recorded["hardware"] | hardware})
        shown: list[str] = []

        def show(progress: Progress) -> None:
            shown.append(progress.stage)
            threads.add(torch.get_num_threads())

        result = convscope.resume(run, report=False, on_progress=show)
        return [note for note in result.notes if "another machine" in note], [s for s in shown if "machine" in s]

    assert resumed({"capability": None}) == ([], [])  # unknown, and so not said to differ
    threads.clear()
    noted, shown = resumed({"capability": "AVX2: avx", "threads": 3})
    assert (
        noted
        == shown
        == [
            f"resumed on another machine (capability {recorded['hardware']['capability']!r} instead of 'AVX2: avx'): "
            "no longer bit-identical to a run that never stopped"
        ]
    )
    assert threads == {3}
    convscope.resume(run, report=False)
    assert read_json(run / "results.json")["notes"].count(noted[0]) == 1


def test_resume_with_other_data_or_model_names_the_difference(uninterrupted: Path) -> None:
    """Case 45."""
    with pytest.raises(ResumeMismatch, match="trains model 'cnn-small', not 'mlp'"):
        convscope.resume(uninterrupted, model="mlp")
    with pytest.raises(ResumeMismatch, match="trains on 'mnist5k', not 'digits'"):
        convscope.resume(uninterrupted, data="digits")
    path = uninterrupted / "run.json"
    original = path.read_text()
    try:
        tree = json.loads(original)
        tree["class_names"] = tree["class_names"][::-1]
        path.write_text(json.dumps(tree))
        with pytest.raises(ResumeMismatch, match="was started with the classes 9, 8"):
            convscope.resume(uninterrupted)
        tree = json.loads(original)
        tree["data"]["fingerprint"] = "0" * 64
        path.write_text(json.dumps(tree))
        with pytest.raises(ResumeMismatch, match="other images or labels"):
            convscope.resume(uninterrupted)
    finally:
        path.write_text(original)


def test_the_config_is_what_was_asked_for(uninterrupted: Path) -> None:
    asked = make_config(
        "mnist5k", "cnn-small", epochs=3, batch_size=32, per_class=60, augment=("crop", "rotate"), threads=1
    )
    assert read_config(uninterrupted) == asked

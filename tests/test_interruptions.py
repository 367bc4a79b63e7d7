"""Runs that are killed, stopped, resumed or started twice: the result is that of a run nobody touched."""

from __future__ import annotations

import json
import multiprocessing
import random
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
import pytest
import torch
from safetensors.numpy import load_file

import convscope
from convscope.config import TrainConfig
from convscope.errors import ConvscopeError, Interrupted, ResumeMismatch
from convscope.progress import Progress, ignore_progress
from convscope.run.configure import make_config
from convscope.storage.files import read_json, write_json
from convscope.storage.run_folder import read_config, read_history
from convscope.training.loop import train
from tests.support import new_network, run_convscope, same_weights, stop_at, training_data, write_folder

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


@pytest.fixture(autouse=True)
def hears_ctrl_c() -> Iterator[None]:
    """Hear Ctrl-C as a program in a terminal does; one that a shell starts in the background is born deaf to it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


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

    with pytest.raises(Interrupted):
        convscope.train(out=tmp_path / "stopped", report=False, on_progress=stop_at("epoch 1/3"), **settings)
    convscope.resume(tmp_path / "stopped", report=False)
    assert read_config(tmp_path / "stopped").train.batch_size == 16  # the largest that leaves 32 steps
    assert facts(tmp_path / "stopped") == facts(tmp_path / "whole")


TINY: dict[str, Any] = {"data": "digits", "model": "mlp", "epochs": 3, "per_class": 20, "batch_size": 256, "threads": 1}
ACCUMULATED = TINY | {"batch_size": 16, "accumulate": 1000}
UNFROZEN = TINY | {"per_class": 5, "freeze": True, "unfreeze_at": 2}
STEPS = (
    *((TINY, stage) for stage in ("epoch 2/3", "epoch 3/3", "evaluating", "writing model.onnx", "writing the report")),
    (ACCUMULATED, "epoch 2/3"),
    *((UNFROZEN, stage) for stage in ("computing features", "fitting the head", "epoch 2/3")),
)


@pytest.fixture(scope="module")
def never_stopped(tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict[str, Any]], Path]:
    folder, made = tmp_path_factory.mktemp("whole"), dict[str, Path]()

    def run_of(settings: dict[str, Any]) -> Path:
        key = str(settings)
        if key not in made:
            made[key] = Path(convscope.train(out=folder / str(len(made)), report=False, **settings).run)
        return made[key]

    return run_of


@pytest.mark.parametrize(("settings", "stage"), STEPS)
def test_a_stop_is_honoured_at_every_step_of_a_run(
    never_stopped: Callable[[dict[str, Any]], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    stage: str,
) -> None:
    """Where an epoch is one batch, where gradients add up over all of it, and where there is no loop."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run = tmp_path / "a run"
    line = re.escape(f"convscope train --resume '{run}'")
    with pytest.raises(Interrupted, match=line):
        convscope.train(out=run, report=stage == "writing the report", on_progress=stop_at(stage), **settings)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    convscope.resume(run, report=False)
    assert facts(run) == facts(never_stopped(settings))


def test_a_stop_before_the_run_folder_is_made_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match="nothing was written"):
        convscope.train(write_folder(tmp_path / "images"), out=tmp_path / "run", on_progress=stop_at("reading"))
    assert not (tmp_path / "run").exists()


def test_a_stop_in_validation_resumes_with_it(tmp_path: Path) -> None:
    data, config = training_data(), TrainConfig(epochs=2, batch_size=1000)
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    whole, again = new_network(), new_network()
    expected = train(whole, data, config, tmp_path / "whole", on_progress=ignore_progress)
    asked = iter([False] * 4 + [True])  # after each update, batch of validation and epoch: in that of the second epoch
    with pytest.raises(Interrupted, match=r"in epoch 2 after 1 of 1 batches"):
        train(
            new_network(),
            data,
            config,
            tmp_path / "stopped",
            on_progress=ignore_progress,
            stop_requested=lambda: next(asked),
        )
    result = train(again, data, config, tmp_path / "stopped", on_progress=ignore_progress, resume=True)
    assert [record.lr for record in result.history] == [record.lr for record in expected.history]
    assert same_weights(whole, again)


VERBS = {
    "train": (["digits"], "make_splits"),
    "evaluate": (["RUN"], "predict_logits"),
    "predict": (["RUN", "IMAGES"], "predict_entries"),
    "inspect": (["RUN"], "compute_sections"),
    "report": (["RUN"], "render_page"),
    "export": (["RUN"], "to_onnx"),
    "compare": (["RUN", "RUN"], "compare_runs"),
    "lab": (["padding", "--quick", "--jobs", "1"], "add_gradients"),
    "recipe": (["demo"], "load_images"),
    "budget": (["mlp"], "predict_memory"),
    "check": (["IMAGES", "--out", "HEALTH"], "check_health"),
    "runs": (["RUN"], "summarize_runs"),
    "models": ([], "count_macs"),
    "data": (["list"], "list_"),
}
"""Verb -> its arguments, and a function of ours whose first call meets the signal."""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("verb", VERBS)
def test_a_stop_ends_every_verb_in_one_line(
    uninterrupted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    verb: str,
    number: signal.Signals,
) -> None:
    monkeypatch.chdir(tmp_path)
    words, function = VERBS[verb]
    places = {"RUN": uninterrupted, "HEALTH": tmp_path / "health", "IMAGES": tmp_path / "images"}
    write_folder(places["IMAGES"])
    before = sorted(path.name for path in (*tmp_path.rglob("*"), *uninterrupted.rglob("*")))

    def watch(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and frame.f_code.co_name == function and "convscope" in frame.f_code.co_filename:
            sys.setprofile(None)
            signal.raise_signal(number)

    sys.setprofile(watch)
    try:
        code, out, err = run_convscope(capsys, verb, *(places.get(word, word) for word in words))
    finally:
        sys.setprofile(None)
    assert code == 130, err
    line = err.strip().splitlines()[-1]
    assert "stopped" in line
    assert "run it again" in line
    assert "Traceback" not in err
    assert out == ""
    assert sorted(path.name for path in (*tmp_path.rglob("*"), *uninterrupted.rglob("*"))) == before


DEAF = """
import subprocess, sys, time
from convscope.training import interrupts
interrupts.GRACE_SECONDS = 0.3
with interrupts.stops_in_time(), interrupts.interruptible("stopped; go on"):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    while True:
        try:
            print(child.pid, flush=True)
            time.sleep(60)
        except KeyboardInterrupt:
            pass
"""
"""A process that hears no signal, as in a call of a library that takes long."""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_hears_no_signal_is_ended_with_its_children(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", DEAF], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        child = psutil.Process(int(process.stdout.readline()))
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said.decode() == "stopped; go on\n"
    assert psutil.wait_procs([child], timeout=10)[1] == []


def test_the_program_hears_signals_from_its_first_import_on() -> None:
    tree = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    assert tree["project"]["scripts"] == {"convscope": "convscope.__main__:main"}


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
        tree["class_names"][0] = "nought"
        path.write_text(json.dumps(tree))
        with pytest.raises(ResumeMismatch, match="was started with the classes nought, 1"):
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

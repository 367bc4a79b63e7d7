"""Stops at random instants: each ends the command within 5 s, with exit code 130 and the line that goes on.

What goes on gives the weights, history and predictions of a run that nobody stopped, byte for byte. Processes are
forked from one that has imported torch, so that the instants fall into the work and not into imports.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import re
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from harness import RESULTS, write_results
from PIL import Image

LIMIT_SECONDS = 5.0
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["convscope.cli.train", "convscope.api.train", "convscope.api.compare", "convscope.api.lab"]
)
SMALL = ("mnist5k", "--per-class", "20", "--threads", "1")
TRAINED = {
    "one batch an epoch": ("train", *SMALL, "--model", "mlp", "--batch-size", "1000", "--epochs", "30"),
    "accumulation over the epoch": (
        *("train", *SMALL, "--model", "cnn-small", "--batch-size", "64"),
        *("--accumulate", "1000", "--epochs", "20"),
    ),
    "after unfreezing": (
        *("train", *SMALL, "--model", "cnn-small", "--freeze", "--unfreeze-at", "2", "--epochs", "30"),
        *("--batch-size", "1000", "--augment", "crop"),
    ),
    "compare": ("compare", *SMALL[:3], "--models", "mlp,cnn-small", "--seeds", "1", "--epochs", "20", "--jobs", "2"),
}
"""Commands with --out whose result must not depend on stops."""
FILES = ("model.safetensors", "history.jsonl", "predictions.csv")


@dataclass(frozen=True)
class Stop:
    """A stop and what came of it.

    Args:
        after_seconds: from the start of the command, when it hears signals, to this one.
        seconds: from the signal to the end of the process.
        goes_on: the last line on stderr says how.
        children: processes that were left.
    """

    signal: str
    after_seconds: float
    seconds: float
    code: int | None
    line: str
    goes_on: bool
    children: int

    @property
    def good(self) -> bool:
        """Whether everything is as it should be."""
        return self.code == 130 and self.seconds <= LIMIT_SECONDS and self.goes_on and not self.children


def run_command(words: Sequence[str], errors: str) -> None:
    """Run the command line in this process, a leader of its own group, with stdout and stderr in files."""
    os.setsid()
    for number, path in ((1, f"{errors}.out"), (2, errors)):
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), number)
    sys.argv = ["convscope", *words]
    from convscope.__main__ import main

    main()


def start(words: Sequence[str], errors: Path) -> BaseProcess:
    """Start a command as a process and return when it hears signals, which no program does from its very beginning."""
    process = FORKS.Process(target=run_command, args=(list(words), str(errors)))
    process.start()
    status = Path(f"/proc/{process.pid}/status")
    while process.is_alive():
        with suppress(OSError):  # it has ended meanwhile
            caught = int(re.search(r"SigCgt:\s*([0-9a-f]+)", status.read_text())[1], 16)
            if caught >> (signal.SIGTERM - 1) & 1:
                break
        process.join(0.001)
    return process


def finish(words: Sequence[str], errors: Path) -> float:
    """Run a command to its end; return its seconds."""
    began = time.monotonic()
    process = start(words, errors)
    process.join()
    if process.exitcode:
        sys.exit(f"convscope {shlex.join(words)} failed:\n{errors.read_text()}")
    return time.monotonic() - began


def stop(process: BaseProcess, number: signal.Signals, after: float, errors: Path) -> Stop | None:
    """Send a signal after so many seconds, Ctrl-C to the whole group as a terminal does; None if it came too late."""
    process.join(after)
    assert process.pid is not None
    if process.exitcode is not None:
        return None
    try:
        mine = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return None
    began = time.monotonic()
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    process.join(30)
    seconds = time.monotonic() - began
    if process.exitcode == 0:
        return None  # it was done before it could hear the signal
    left = sum(map(_runs, psutil.wait_procs(mine, timeout=1)[1]))
    text = errors.read_text().strip()
    line = text.splitlines()[-1] if text else ""
    goes_on = any(words in line for words in ("--resume", "goes on from there", "run it again"))
    return Stop(number.name, after, seconds, process.exitcode, line, goes_on and "Traceback" not in text, left)


def _runs(process: psutil.Process) -> bool:
    """Return whether a process is more than an entry that nobody has collected, as in containers without an init."""
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def facts(folder: Path) -> dict[str, str]:
    """Return the hash of each file that must not depend on stops; seconds in the history are left out."""
    found = {}
    for path in sorted(path for name in FILES for path in folder.rglob(name)):
        content = path.read_bytes()
        if path.name == "history.jsonl":
            records = [json.loads(line) for line in content.splitlines()]
            content = json.dumps([{k: v for k, v in record.items() if k != "seconds"} for record in records]).encode()
        found[str(path.relative_to(folder))] = hashlib.sha256(content).hexdigest()
    return found


def go_on(stopped: Stop, words: Sequence[str], errors: Path) -> None:
    """Do what the line says: the command it names, or the same one."""
    named = stopped.line.partition("convscope train --resume")
    finish(shlex.split(f"train --resume {named[2]}") if named[1] else words, errors)


def try_command(words: Sequence[str], number: int, folder: Path, seed: int) -> tuple[list[Stop], list[bool]]:
    """Stop a command at `number` instants of its duration and go on each time; return the stops and which agree."""
    errors, out, whole = folder / "errors", folder / "run", folder / "whole"
    finish([*words, "--out", str(whole)], errors)  # with caches filled, the next is as long as the others
    shutil.rmtree(whole)
    seconds, expected = finish([*words, "--out", str(whole)], errors), facts(whole)
    assert expected
    rng, stops, same = random.Random(seed), list[Stop](), list[bool]()
    while len(stops) < number:
        shutil.rmtree(out, ignore_errors=True)
        command = [*words, "--out", str(out)]
        kind = (signal.SIGTERM, signal.SIGINT)[len(stops) % 2]
        stopped = stop(start(command, errors), kind, rng.uniform(0, seconds), errors)
        if stopped is None:
            continue
        stops.append(stopped)
        if stopped.code == 130:
            go_on(stopped, command, errors)
        same.append(facts(out) == expected)
        print(stopped, same[-1], file=sys.stderr, flush=True)
    return stops, same


def make_verbs(folder: Path) -> dict[str, list[str]]:
    """Return a command for each other verb, with what it needs."""
    run, images = folder / "run", folder / "images"
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (images / name).mkdir(parents=True)
        for number in range(150):
            pixels = rng.integers(0, 256, (300, 300, 3), np.uint8)
            Image.fromarray(pixels).save(images / name / f"{number}.jpg")
    for seed, place in enumerate((run, folder / "other")):
        options = ["--model", "mlp", "--epochs", "1", "--seed", str(seed), "--out", str(place)]
        finish(["train", "digits", *options], folder / "errors")
    return {
        "evaluate": ["evaluate", str(run)],
        "predict": ["predict", str(run), str(images)],
        "inspect": ["inspect", str(run)],
        "report": ["report", str(run)],
        "export": ["export", str(run), "--out", str(folder / "model.onnx")],
        "compare, finished runs": ["compare", str(run), str(folder / "other")],
        "lab": ["lab", "padding", "--quick", "--out", str(folder / "lab")],
        "recipe --list": ["recipe", "--list"],
        "recipe": ["recipe", "demo", "--epochs", "2", "--out", str(folder / "recipe")],
        "budget": ["budget", "resnet18"],
        "budget --measure": ["budget", "lenet5", "--measure"],
        "budget --remedies": ["budget", "lenet5", "--remedies"],
        "check": ["check", str(images), "--out", str(folder / "health")],
        "runs": ["runs", str(folder)],
        "models": ["models", "resnet*"],
        "data list": ["data", "list"],
    }


def try_verb(words: Sequence[str], number: int, folder: Path, seed: int) -> list[Stop]:
    """Stop a verb at `number` instants of its duration."""
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    errors, rng, stops = folder / "errors", random.Random(seed), list[Stop]()
    seconds, tries = finish(words, errors), 0
    while len(stops) < number and tries < 10 * number:  # a verb of a few ms is rarely met at work
        tries += 1
        for made in ("lab", "recipe", "health"):
            shutil.rmtree(folder / made, ignore_errors=True)
        kind = (signal.SIGTERM, signal.SIGINT)[tries % 2]
        stopped = stop(start(words, errors), kind, rng.uniform(0, seconds), errors)
        if stopped is not None:
            stops.append(stopped)
            print(words[0], stopped, file=sys.stderr, flush=True)
    assert not list(folder.rglob(".*.tmp")), "a half-written file is left"
    return stops


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="situations and verbs to try (default: all)")
    parser.add_argument("--stops", type=int, default=20, help="of each situation")
    parser.add_argument("--stops-of-a-verb", type=int, default=4)
    asked = parser.parse_args()
    file = RESULTS / "interruptions.json"
    kept = json.loads(file.read_text())["commands"] if file.exists() else {}
    with tempfile.TemporaryDirectory() as scratch:
        for seed, (name, words) in enumerate(TRAINED.items()):
            if name in (asked.names or [name]):
                folder = Path(scratch) / str(seed)
                folder.mkdir()
                stops, same = try_command(words, asked.stops, folder, seed)
                kept[name] = {"command": words, "stops": [asdict(each) for each in stops], "same": same}
        folder = Path(scratch) / "verbs"
        folder.mkdir()
        for seed, (name, words) in enumerate(make_verbs(folder).items()):
            if name in (asked.names or [name]):
                stops = try_verb(words, asked.stops_of_a_verb, folder, seed)
                kept[name] = {"stops": [asdict(each) for each in stops]}
    write_results(
        "interruptions",
        "Stops at random instants: SIGTERM and Ctrl-C in turn",
        "Instants are uniform over the command's own duration. Good: exit code 130, a line that says how to go on, no "
        f"traceback, no process left, within {LIMIT_SECONDS:.0f} s. Then the run goes on as the line says; same: "
        "weights, history without seconds and predictions are those of a run that nobody stopped, by SHA-256.",
        ("situation", "good", "slowest, s", "same after going on"),
        [_row(name, **one) for name, one in kept.items()],
        {"commands": kept},
    )


def _row(name: str, stops: Sequence[Mapping[str, Any]], same: Sequence[bool] = (), command: object = None) -> list[str]:
    found = [Stop(**each) for each in stops]
    slowest = f"{max(each.seconds for each in found):.2f}" if found else "-"
    agree = f"{sum(same)} of {len(same)}" if same else "-"
    return [name, f"{sum(each.good for each in found)} of {len(found)}", slowest, agree]


if __name__ == "__main__":
    main()

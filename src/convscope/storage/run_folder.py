"""The run folder: creating it, locking it, and reading it back."""

import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convscope.config import RunConfig, config_from_json
from convscope.errors import RunError, RunLocked, UsageError
from convscope.results.run import EpochRecord
from convscope.schema import checked
from convscope.storage.files import (
    check_text,
    create_folder,
    file_name,
    parse_json,
    read_arrays,
    read_json,
    read_limited,
    write_arrays,
    write_bytes,
    write_error,
)
from convscope.storage.run_start import read_start
from convscope.storage.schemas import damaged


def create_run_folder(out: str | Path | None, *, default_name: str) -> Path:
    """Return a new, empty run folder: `out`, or `runs/DEFAULT_NAME` with the next free number.

    Raises:
        RunError: `out` already holds a run or other files, or cannot be written.
    """
    if out is None:
        run = _create_numbered(Path("runs"), file_name(default_name))
    else:
        run = Path(out)
        check_out(run)
    create_folder(run)
    return run


def _create_numbered(folder: Path, stem: str) -> Path:
    """Create the first of STEM-1, STEM-2, ... that is free, even if several processes do so at the same time."""
    number = 1
    try:
        folder.mkdir(parents=True, exist_ok=True)
        while True:
            with suppress(FileExistsError):
                (folder / f"{stem}-{number}").mkdir()
                return folder / f"{stem}-{number}"
            number += 1
    except OSError as error:
        raise write_error(folder, 0, error) from error


def check_out(run: Path) -> None:
    """Refuse a run folder that could not be created, before any work is done for it.

    Raises:
        RunLocked: another process is writing a run there.
        RunError: it holds a run or other files, or cannot be written.
    """
    check_text(run)
    if run.is_dir() and (run / ".lock").exists():
        with locked(run):
            pass
    if run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise RunError(f"{run} exists and is not an empty folder; choose another --out, or go on with --resume {run}")
    parent = run
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise RunError(f"cannot write {run}: {parent} is not a folder that can be written; choose another --out")


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold the run folder's lock, which the system frees if this process dies; delete what a killed process left.

    Raises:
        RunLocked: another process holds it; names its pid and host.
        RunError: there is no such folder, or it cannot be written.
    """
    from filelock import FileLock, Timeout  # takes 30 ms to import, and who only reads runs needs no lock

    if not run.is_dir():
        raise RunError(f"there is no run folder {run}; `convscope runs` lists those in runs")
    lock, owner = FileLock(run / ".lock"), run / ".lock-owner"
    try:
        lock.acquire(timeout=0)
    except Timeout:
        try:
            who = owner.read_text()
        except OSError:
            who = "another process"
        raise RunLocked(f"{run} is being written by {who}; wait until it ends, or choose another --out") from None
    except OSError as error:
        raise write_error(run / ".lock", 0, error) from error
    try:
        for leftover in run.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)
        write_bytes(owner, f"pid {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def read_config(run: Path) -> RunConfig:
    """Return the configuration a run was started with; raises as `read_start`."""
    try:
        return config_from_json(read_start(run)["config"])
    except UsageError as error:
        raise RunError(f"{run / 'run.json'}: {error}; the file is damaged, or a newer convscope wrote it") from error


def summarize_runs(folder: Path) -> list[dict[str, Any]]:
    """Return one dict for each run in a folder, newest first.

    Accuracy, its split and time are None while a run is not finished; `error` says why a run cannot be read, and the
    rest is None.
    """
    rows = [_summarize(path.parent) for path in folder.glob("*/run.json")]
    return sorted(rows, key=lambda row: row["created"] or "", reverse=True)


def _summarize(run: Path) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(
        ("run", "created", "data", "model", "seed", "num_params", "accuracy", "split", "train_seconds", "error")
    )
    row["run"] = str(run)
    try:
        start = read_start(run)
        results = read_json(run / "results.json") if (run / "results.json").exists() else {}
        return row | {
            "created": start["created"],
            "data": start["data"]["name"],
            "model": start["model"]["name"],
            "seed": start["config"]["train"].get("seed"),
            "num_params": start["model"]["num_params"],
            "accuracy": results.get("accuracy"),
            "split": results.get("split"),
            "train_seconds": results.get("train_seconds"),
        }
    except RunError as error:
        return row | {"error": str(error)}


def write_history(run: Path, history: Sequence[EpochRecord]) -> None:
    """Write all of history.jsonl again: it is short, and so it is whole at any time."""
    lines = [json.dumps(asdict(record), allow_nan=False) for record in history]
    write_bytes(run / "history.jsonl", "".join(line + "\n" for line in lines).encode())


def read_history(run: Path) -> tuple[EpochRecord, ...]:
    """Return the epochs recorded so far."""
    path = run / "history.jsonl"
    if not path.exists():
        return ()
    try:
        lines = read_limited(path).splitlines()
        return tuple(
            checked(parse_json(line), EpochRecord, f"line {number}") for number, line in enumerate(lines, start=1)
        )
    except (OSError, ValueError) as error:
        raise damaged(f"{path}: {error}") from error


def write_thumbnails(run: Path, thumbnails: Mapping[str, NDArray[np.uint8]]) -> None:
    """Write small images by id, uint8 [H, W, C] each."""
    names, images = list(thumbnails), list(thumbnails.values())
    stacked = np.stack(images) if images else np.zeros((0, 1, 1, 1), np.uint8)
    write_arrays(run / "thumbnails.npz", {"ids": np.array(names, dtype=np.str_), "images": stacked})


def read_thumbnails(run: Path) -> dict[str, NDArray[np.uint8]]:
    """Return the small images by id, uint8 [H, W, C] each."""
    path = run / "thumbnails.npz"
    if not path.exists():
        return {}
    arrays = read_arrays(path)
    try:
        ids, images = arrays["ids"].tolist(), arrays["images"]
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
            raise ValueError(f"images are {images.dtype} {images.shape}")
        return dict(zip(map(str, ids), images, strict=True))
    except (LookupError, TypeError, ValueError) as error:
        raise damaged(f"{path} does not hold small images ({error})") from error

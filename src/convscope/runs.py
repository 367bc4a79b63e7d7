"""The run folder: its layout, writes that are whole or not at all, checkpoints with hashes, and the lock.

    RUN/run.json             configuration, versions, hardware, data: written once at the start
        split.csv            picture,label,split            skipped.csv      file,reason,remedy
        plan.json            what the run was expected to take, and what it took
        history.jsonl        one EpochRecord a line
        checkpoints/step-N/  the training state after N steps, and manifest.json: size and sha256 of each file
        model.safetensors, model.json                       what one ships
        predictions.csv, mistakes.csv, results.json         what was measured on the test part
        calibration.json     whether it is right as often as it is sure, as trained and with a fitted temperature
        thumbnails.npz       small copies of the pictures that the report shows
        inside.npz           one picture on its way through the network
        report.html

Nothing here knows of torch: tensors arrive as bytes, or as a stream of them.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from convscope.config import RunConfig, config_from_json
from convscope.errors import CheckpointError, RunError, RunLocked
from convscope.results import EpochRecord

KEPT_CHECKPOINTS = 2
"""How many of the newest checkpoints stay, beside the best one."""

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "'")
_FORBIDDEN_IN_NAMES = str.maketrans(dict.fromkeys('/\\:*?"<>| ', "-"))


@dataclass(frozen=True)
class Stream:
    """The content of a file, piece by piece, so that it need not be in memory twice.

    Args:
        chunks: returns the pieces from the beginning; `num_bytes` in all.
    """

    num_bytes: int
    chunks: Callable[[], Iterable[bytes | memoryview]]


Content = bytes | Stream


@dataclass(frozen=True)
class Checkpoint:
    """A training state that was found whole: the step it belongs to and its files by name."""

    step: int
    files: Mapping[str, Path]
    warnings: tuple[str, ...] = ()


# ---------------------------------------------------------------- whole writes


def write_bytes(path: Path, content: Content) -> None:
    """Write a file so that after any crash it holds the old content or the new, never a part.

    Raises:
        RunError: the disk is full or the folder cannot be written; names path, needed and free bytes.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        _write_and_sync(temporary, content)
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _write_error(path, _size(content), error) from error


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Write an array as a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_bytes(path, buffer.getvalue())


def write_json(path: Path, tree: Any) -> None:  # noqa: ANN401
    """Write a JSON file, whole or not at all. NaN is refused: it is not JSON."""
    write_bytes(path, (json.dumps(tree, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode())


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file with a heading, whole or not at all."""
    write_bytes(path, csv_bytes(columns, rows))


def csv_bytes(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """Return the content of a CSV file with a heading, UTF-8.

    A name that a spreadsheet would compute, such as `=1+1`, stands behind an apostrophe, which `read_csv` takes off.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([f"'{cell}" if _is_formula(cell) else cell for cell in row] for row in rows)
    return text.getvalue().encode()


def _is_formula(cell: object) -> bool:
    """Whether a spreadsheet would take the cell for a formula, or `read_csv` its apostrophe for one of ours."""
    if not isinstance(cell, str) or not cell.startswith(FORMULA_STARTS):
        return False
    try:
        float(cell)
    except ValueError:
        return True
    return False  # a class may be called -1


def read_json(path: Path) -> Any:  # noqa: ANN401
    """Return the content of a JSON file of a run.

    Raises:
        RunError: there is no such file or it is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise RunError(
            f"{path} does not exist; {path.parent} is not a (finished) run folder. `convscope runs` lists those in runs"
        ) from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read as JSON: {error}") from error


def read_csv(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file of a run, one dict a row."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [
                {name: cell.removeprefix("'") if _is_formula(cell) else cell for name, cell in row.items()}
                for row in csv.DictReader(file)
            ]
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from error


# ---------------------------------------------------------------- the folder


def create_run_folder(out: str | Path | None, *, default_name: str) -> Path:
    """Return a new, empty run folder: `out`, or `runs/DEFAULT_NAME` with the next free number.

    Raises:
        RunError: `out` already holds a run or other files, or cannot be written.
    """
    if out is not None:
        run = Path(out)
        check_out(run)
        _make_folder(run)
    else:
        stem, number = file_name(default_name), 1
        while True:
            run = Path("runs") / f"{stem}-{number}"
            try:
                _make_folder(run.parent)
                run.mkdir()
                break
            except FileExistsError:
                number += 1
            except OSError as error:
                raise _write_error(run, 0, error) from error
    create_folder(run)
    return run


def file_name(name: str) -> str:
    """Return a name in which nothing stands that some system forbids in file names."""
    return name.translate(_FORBIDDEN_IN_NAMES)


def create_folder(folder: Path) -> None:
    """Create a folder for runs and what is made from them; it may exist and hold some.

    Raises:
        RunError: it cannot be written.
    """
    _make_folder(folder)
    write_bytes(folder / ".gitignore", b"*\n")  # a run inside a checkout is not source code


def check_out(run: Path) -> None:
    """Refuse a run folder that could not be created, before any work is done for it.

    Raises:
        RunLocked: another process is writing a run there.
        RunError: it holds a run or other files, or cannot be written.
    """
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
    """Hold the run folder's lock, which the system frees if this process dies; clear what a killed one half wrote.

    Raises:
        RunLocked: another process holds it; names its pid and host.
        RunError: there is no such folder, or it cannot be written.
    """
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
        raise _write_error(run / ".lock", 0, error) from error
    try:
        for leftover in run.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)
        write_bytes(owner, f"pid {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def summarize_runs(folder: Path) -> list[dict[str, Any]]:
    """Return one dict for each run in a folder, newest first; figures are None while a run is not finished."""
    rows = []
    for path in folder.glob("*/run.json"):
        run, start = path.parent, read_json(path)
        results = read_json(run / "results.json") if (run / "results.json").exists() else {}
        rows.append(
            {
                "run": str(run),
                "created": start["created"],
                "data": start["data"]["name"],
                "model": start["model"]["name"],
                "seed": start["config"]["train"]["seed"],
                "num_params": start["model"]["num_params"],
                "accuracy": results.get("accuracy"),
                "train_seconds": results.get("train_seconds"),
            }
        )
    return sorted(rows, key=lambda row: str(row["created"]), reverse=True)


def read_config(run: Path) -> RunConfig:
    """Return the configuration a run was started with."""
    return config_from_json(read_json(run / "run.json")["config"])


def write_history(run: Path, history: Sequence[EpochRecord]) -> None:
    """Write history.jsonl anew; it is short and so is whole at any instant."""
    lines = [json.dumps(asdict(record), allow_nan=False) for record in history]
    write_bytes(run / "history.jsonl", "".join(line + "\n" for line in lines).encode())


def read_history(run: Path) -> tuple[EpochRecord, ...]:
    """Return the epochs recorded so far."""
    path = run / "history.jsonl"
    if not path.exists():
        return ()
    return tuple(EpochRecord(**json.loads(line)) for line in path.read_text().splitlines())


def write_thumbnails(run: Path, pictures: Mapping[str, NDArray[np.uint8]]) -> None:
    """Write small pictures by id, uint8 [H, W, C] each."""
    names, images = list(pictures), list(pictures.values())
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        ids=np.array(names, dtype=np.str_),
        images=np.stack(images) if images else np.zeros((0, 1, 1, 1), np.uint8),
    )
    write_bytes(run / "thumbnails.npz", buffer.getvalue())


def read_thumbnails(run: Path) -> dict[str, NDArray[np.uint8]]:
    """Return the small pictures by id, uint8 [H, W, C] each."""
    path = run / "thumbnails.npz"
    if not path.exists():
        return {}
    with np.load(path, allow_pickle=False) as file:
        return dict(zip(file["ids"].tolist(), file["images"], strict=True))


# ---------------------------------------------------------------- checkpoints


def save_checkpoint(run: Path, step: int, files: Mapping[str, Content], *, keep: Iterable[int] = ()) -> None:
    """Save the training state after `step` steps, then delete old ones but the newest two and those in `keep`.

    The folder gets its final name only when all of it is on the disk; it is read back and compared with its
    manifest before anything older is deleted.

    Raises:
        RunError: it could not be written; older checkpoints are as they were.
    """
    root = run / "checkpoints"
    final, temporary = root / f"step-{step}", root / f".step-{step}.tmp"
    needed = sum(map(_size, files.values()))
    try:
        root.mkdir(exist_ok=True)
        _delete_leftovers(root)
        if final.exists():
            shutil.rmtree(final)  # only reached again on a resume from before it, or when it is broken
        temporary.mkdir()
        manifest = {
            name: {"bytes": _size(content), "sha256": _write_and_sync(temporary / name, content)}
            for name, content in files.items()
        }
        _write_and_sync(temporary / "manifest.json", json.dumps(manifest, indent=2).encode())
        _sync_folder(temporary)
        temporary.replace(final)
        _sync_folder(root)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise _write_error(final, needed, error) from error
    problem = _check_checkpoint(final)[1]
    if problem:
        raise RunError(f"{final} did not read back as written ({problem}); check the disk. Older checkpoints are kept")
    steps = _checkpoint_steps(run)
    for old in steps[KEPT_CHECKPOINTS:]:
        if old < step and old not in set(keep):
            shutil.rmtree(root / f"step-{old}", ignore_errors=True)


def load_checkpoint(run: Path, step: int | None = None) -> Checkpoint:
    """Return the newest whole checkpoint, or the one of `step`; broken ones are named in its warnings.

    Raises:
        CheckpointError: none is whole.
    """
    warnings: list[str] = []
    for candidate in _checkpoint_steps(run) if step is None else [step]:
        folder = run / "checkpoints" / f"step-{candidate}"
        files, problem = _check_checkpoint(folder)
        if problem is None:
            return Checkpoint(candidate, files, tuple(warnings))
        warnings.append(f"{folder} is not used: {problem}")
    detail = "; ".join(warnings) or "there is none yet"
    raise CheckpointError(f"no whole checkpoint in {run}: {detail}. Start the run again with a new --out")


def _checkpoint_steps(run: Path) -> list[int]:
    """Return the steps of all checkpoint folders, newest first; by number, so that clocks do not matter."""
    names = [path.name.removeprefix("step-") for path in (run / "checkpoints").glob("step-*")]
    return sorted((int(name) for name in names if name.isdigit()), reverse=True)


def _check_checkpoint(folder: Path) -> tuple[dict[str, Path], str | None]:
    """Return the files of a checkpoint, all of them read, and what is wrong with it, None if nothing is."""
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        files = {name: folder / name for name in manifest}
        for name, entry in manifest.items():
            num_bytes, digest = _digest(files[name])
            if num_bytes != entry["bytes"]:
                return {}, f"{name} has {num_bytes} bytes, expected {entry['bytes']}"
            if digest != entry["sha256"]:
                return {}, f"{name} has another sha256 than manifest.json says"
    except FileNotFoundError as error:
        return {}, f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return {}, f"it cannot be read ({error})"
    return files, None


def _digest(path: Path) -> tuple[int, str]:
    """Return size and sha256 of a file, read in pieces."""
    with path.open("rb") as file:
        return os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()


def _delete_leftovers(root: Path) -> None:
    for leftover in root.glob(".step-*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)


# ---------------------------------------------------------------- the system below


def _write_and_sync(path: Path, content: Content) -> str:
    """Write a file through to the disk; return the sha256 of its content."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for chunk in content.chunks() if isinstance(content, Stream) else (content,):
            file.write(chunk)
            digest.update(chunk)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _size(content: Content) -> int:
    return content.num_bytes if isinstance(content, Stream) else len(content)


def _sync_folder(folder: Path) -> None:
    if sys.platform == "win32":
        return  # Windows cannot open a folder; NTFS journals the rename
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise _write_error(folder, 0, error) from error


def _write_error(path: Path, needed_bytes: int, error: OSError) -> RunError:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return RunError(
            f"cannot write {path}: {error.strerror or error}; choose a folder that can be written with --out"
        )
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        free = f"{shutil.disk_usage(folder).free:,} bytes free"
    except OSError:
        free = "free space unknown"
    return RunError(
        f"cannot write {path}: {error.strerror or error} (needs {needed_bytes:,} bytes, {free} in {folder}); "
        "make room or choose a folder that can be written with --out"
    )


def sha256(content: bytes) -> str:
    """Return the sha256 of some bytes, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()

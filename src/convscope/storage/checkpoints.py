"""Checkpoints with hashes: saved whole, loaded whole, or passed over with a reason."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from convscope.errors import CheckpointError, RunError
from convscope.storage.files import (
    Content,
    content_bytes,
    move_into_place,
    open_regular,
    parse_json,
    read_limited,
    sync_folder,
    write_and_sync,
    write_error,
)

KEPT_CHECKPOINTS = 2
"""How many of the newest checkpoints stay, besides the best one."""


@dataclass(frozen=True)
class Checkpoint:
    """A training state whose files are whole: its step and its files by name."""

    step: int
    files: Mapping[str, Path]
    warnings: tuple[str, ...] = ()


def save_checkpoint(run: Path, step: int, files: Mapping[str, Content], *, keep: Iterable[int] = ()) -> None:
    """Save the training state after `step` steps, then delete older ones except the newest two and those in `keep`.

    The folder gets its final name only when all of it is on the disk; it is read back and compared with its
    manifest before anything older is deleted.

    Raises:
        RunError: it could not be written; older checkpoints are as they were.
    """
    root = run / "checkpoints"
    final, temporary = root / f"step-{step}", root / f".step-{step}.tmp"
    try:
        root.mkdir(exist_ok=True)
        for leftover in root.glob(".step-*.tmp"):  # of a killed process
            shutil.rmtree(leftover, ignore_errors=True)
        temporary.mkdir()
        manifest = {}
        for name, content in files.items():
            digest = hashlib.sha256()
            write_and_sync(temporary / name, content, on_chunk=digest.update)
            manifest[name] = {"bytes": content_bytes(content), "sha256": digest.hexdigest()}
        write_and_sync(temporary / "manifest.json", json.dumps(manifest, indent=2).encode())
        sync_folder(temporary)
        if final.exists():
            shutil.rmtree(final)  # only reached again on a resume from before it, or when it is broken
        move_into_place(temporary, final)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise write_error(final, sum(map(content_bytes, files.values())), error) from error
    problem = _check_checkpoint(final)[1]
    if problem:
        raise RunError(f"{final} did not read back as written ({problem}); check the disk. Older checkpoints are kept")
    for old in _checkpoint_steps(run)[KEPT_CHECKPOINTS:]:
        if old < step and old not in set(keep):
            shutil.rmtree(root / f"step-{old}", ignore_errors=True)


def load_checkpoint(run: Path, step: int | None = None) -> Checkpoint:
    """Return the newest whole checkpoint, or that of `step`; its warnings name the broken ones that were passed over.

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
    """Return the steps of all checkpoint folders, newest first: by number, as clocks may be wrong."""
    names = [path.name.removeprefix("step-") for path in (run / "checkpoints").glob("step-*")]
    return sorted((int(name) for name in names if name.isdigit()), reverse=True)


def _check_checkpoint(folder: Path) -> tuple[dict[str, Path], str | None]:
    """Read a checkpoint; return its files by name and what is wrong with it, None if nothing is."""
    try:
        manifest = parse_json(read_limited(folder / "manifest.json"))
        files = {name: folder / name for name in manifest}
        for name, entry in manifest.items():
            with open_regular(files[name]) as file:
                num_bytes = os.fstat(file.fileno()).st_size
                digest = hashlib.file_digest(file, "sha256")
            if num_bytes != entry["bytes"]:
                return {}, f"{name} has {num_bytes} bytes, expected {entry['bytes']}"
            if digest.hexdigest() != entry["sha256"]:
                return {}, f"{name} has another sha256 than manifest.json says"
    except FileNotFoundError as error:
        return {}, f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return {}, f"it cannot be read ({error})"
    return files, None

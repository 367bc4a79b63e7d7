"""The run folder: whole writes, checkpoints under every failing file operation, the lock."""

from __future__ import annotations

import csv
import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convscope.errors import CheckpointError, RunError, RunLocked
from convscope.runs import (
    create_run_folder,
    load_checkpoint,
    locked,
    read_csv,
    read_thumbnails,
    save_checkpoint,
    write_bytes,
    write_csv,
    write_json,
    write_thumbnails,
)

FILES = {"model.safetensors": b"m" * 1000, "loop.json": b"{}"}
OPERATIONS = (
    (os, "fsync"),
    (os, "open"),
    (Path, "open"),
    (Path, "mkdir"),
    (Path, "replace"),
)


@contextmanager
def failing_operation(n: int, error: int) -> Iterator[Callable[[], int]]:
    """Let the n-th (from 1) file operation fail; yield a function that counts them."""
    calls = 0
    originals = [(owner, name, getattr(owner, name)) for owner, name in OPERATIONS]

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            nonlocal calls
            calls += 1
            if calls == n:
                raise OSError(error, os.strerror(error))
            return original(*args, **kwargs)

        return operation

    for owner, name, original in originals:
        setattr(owner, name, wrap(original))
    try:
        yield lambda: calls
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EACCES], ids=["ENOSPC", "EIO", "EACCES"])
def test_whichever_operation_of_a_save_fails_a_good_checkpoint_loads(tmp_path: Path, error: int) -> None:
    """Case 35."""
    save_checkpoint(tmp_path, 1, FILES | {"loop.json": b"first"})
    n, operations, refusals = 0, 100, []
    while n < operations:
        n += 1
        before = load_checkpoint(tmp_path).step
        with failing_operation(n, error) as count:
            try:
                save_checkpoint(tmp_path, n + 1, FILES)
            except RunError as failure:
                refusals.append(str(failure))
            else:
                before = n + 1
            operations = min(operations, count()) if count() < n else operations
        assert load_checkpoint(tmp_path).step in (before, n + 1)
    assert len(refusals) >= 8
    expected = "bytes free" if error == errno.ENOSPC else "cannot write"
    assert all(expected in words or "did not read back" in words for words in refusals)
    assert n > 8  # the sweep went past the last operation
    save_checkpoint(tmp_path, 1000, FILES)
    assert load_checkpoint(tmp_path).step == 1000
    assert not list((tmp_path / "checkpoints").glob(".*"))


def test_disk_full_names_path_needed_and_free_bytes(tmp_path: Path) -> None:
    """Case 36."""
    with (
        failing_operation(1, errno.ENOSPC),
        pytest.raises(RunError, match=r"cannot write .*a\.bin: .*needs 3 bytes, .*free"),
    ):
        write_bytes(tmp_path / "a.bin", b"abc")
    assert list(tmp_path.iterdir()) == []


def break_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda folder: break_bit(folder / "model.safetensors"), "another sha256"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"m"), "has 1 bytes, expected 1000"),
        (lambda folder: (folder / "loop.json").unlink(), "loop.json is missing"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "cannot be read"),
    ],
    ids=["bit", "cut", "missing", "manifest", "manifest-kind"],
)
def test_a_broken_checkpoint_is_named_and_the_one_before_is_used(tmp_path: Path, harm: Any, words: str) -> None:  # noqa: ANN401
    """Case 37."""
    save_checkpoint(tmp_path, 10, FILES)
    save_checkpoint(tmp_path, 20, FILES)
    harm(tmp_path / "checkpoints" / "step-20")
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint.step == 10
    assert len(checkpoint.warnings) == 1
    assert "step-20" in checkpoint.warnings[0]
    assert words in checkpoint.warnings[0]


def test_no_checkpoint_at_all(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is none yet"):
        load_checkpoint(tmp_path)


def test_the_newest_two_and_the_best_are_kept_whatever_the_clock_says(tmp_path: Path) -> None:
    for step in (5, 10, 15, 20):
        save_checkpoint(tmp_path, step, FILES, keep=[5])
        os.utime(tmp_path / "checkpoints" / f"step-{step}", (10**9 - step, 10**9 - step))  # case 44: clock runs back
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"step-5", "step-15", "step-20"}
    assert load_checkpoint(tmp_path).step == 20


def test_a_killed_save_leaves_the_former_one_and_is_cleaned_up(tmp_path: Path) -> None:
    """Case 34: the process dies while the new checkpoint is written."""
    save_checkpoint(tmp_path, 1, FILES)
    code = (
        "import os, signal, sys; from pathlib import Path; from convscope import runs\n"
        "write, left = runs._write_and_sync, int(sys.argv[2])\n"
        "def dying(path, content):\n"
        "    global left\n"
        "    left -= 1\n"
        "    if left < 0: path.write_bytes(content[: len(content) // 2]); os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return write(path, content)\n"
        "runs._write_and_sync = dying\n"
        "runs.save_checkpoint(Path(sys.argv[1]), 2, {'a': b'x' * 100, 'b': b'y' * 100})\n"
    )
    for killed_at in range(3):
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path), str(killed_at)], check=False)
        assert done.returncode == -9
        assert load_checkpoint(tmp_path).step == 1
    save_checkpoint(tmp_path, 2, FILES)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"step-1", "step-2"}


def test_a_second_process_is_refused_and_a_dead_one_does_not_block(tmp_path: Path) -> None:
    """Case 43."""
    code = (
        "import sys; from pathlib import Path; from convscope.runs import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunLocked, match=rf"pid {holder.pid} on "), locked(tmp_path):
            pass
        with pytest.raises(RunLocked, match=rf"pid {holder.pid} on "):
            create_run_folder(tmp_path, default_name="x")
        holder.kill()
    with locked(tmp_path):
        pass


def test_a_run_folder_must_be_new(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(RunError, match="is not an empty folder"):
        create_run_folder(tmp_path, default_name="x")
    with pytest.raises(RunError, match="is not an empty folder"):
        create_run_folder(tmp_path / "precious.txt", default_name="x")
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_default_folders_are_numbered_and_have_safe_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = [create_run_folder(None, default_name="my photos/a:b").as_posix() for _ in range(2)]
    assert names == ["runs/my-photos-a-b-1", "runs/my-photos-a-b-2"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root writes anywhere")
def test_a_read_only_place_is_refused_by_name(tmp_path: Path) -> None:
    """Case 42."""
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(RunError, match="cannot write"):
            create_run_folder(tmp_path / "run", default_name="x")
    finally:
        tmp_path.chmod(0o700)


def test_a_place_that_cannot_exist_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="file is not a folder that can be written"):
        create_run_folder(tmp_path / "file" / "run", default_name="x")


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    write_json(tmp_path / "a.json", {"name": "é"})
    assert json.loads((tmp_path / "a.json").read_text()) == {"name": "é"}


def test_csv_and_thumbnails_come_back(tmp_path: Path) -> None:
    rows = [("a,b", 'say "hi"', "1"), ("c", "é", "2")]
    write_csv(tmp_path / "a.csv", ("x", "y", "z"), rows)
    assert [tuple(row.values()) for row in read_csv(tmp_path / "a.csv")] == rows
    names = ["=1+1", "+cmd", "-a", "@x", "\tx", "'=1", "'", "-1", "+2.5", "1e5", "a=b", ""]
    write_csv(tmp_path / "b.csv", ("name",), [(name,) for name in names])
    with (tmp_path / "b.csv").open(newline="") as file:
        written = [row[0] for row in list(csv.reader(file))[1:]]
    assert [cell for cell in written if cell[:1] in set("=+-@\t")] == ["-1", "+2.5"]
    assert [row["name"] for row in read_csv(tmp_path / "b.csv")] == names
    pictures = {"0": np.zeros((4, 4, 1), np.uint8), "ü": np.full((4, 4, 1), 9, np.uint8)}
    write_thumbnails(tmp_path, pictures)
    back = read_thumbnails(tmp_path)
    assert list(back) == list(pictures)
    assert all(np.array_equal(back[name], pictures[name]) for name in pictures)
    write_thumbnails(tmp_path, {})
    assert read_thumbnails(tmp_path) == {}

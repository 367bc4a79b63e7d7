"""The run folder: whole writes, checkpoints under every failing file operation, the lock."""

from __future__ import annotations

import csv
import errno
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convscope.errors import CheckpointError, RunError, RunLocked
from convscope.storage.checkpoints import load_checkpoint, save_checkpoint
from convscope.storage.files import (
    Stream,
    read_csv,
    read_json,
    write_and_sync,
    write_array,
    write_bytes,
    write_csv,
    write_json,
)
from convscope.storage.run_folder import create_run_folder, locked, read_thumbnails, write_thumbnails
from convscope.storage.run_start import RUN_SCHEMA
from tests.support import run_convscope, write_run

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
        "import os, signal, sys; from pathlib import Path; from convscope.storage import checkpoints\n"
        "write, left = checkpoints.write_and_sync, int(sys.argv[2])\n"
        "def dying(path, content, **options):\n"
        "    global left\n"
        "    left -= 1\n"
        "    if left < 0: path.write_bytes(content[: len(content) // 2]); os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return write(path, content, **options)\n"
        "checkpoints.write_and_sync = dying\n"
        "checkpoints.save_checkpoint(Path(sys.argv[1]), 2, {'a': b'x' * 100, 'b': b'y' * 100})\n"
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
        "import sys; from pathlib import Path; from convscope.storage.run_folder import locked\n"
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


@pytest.mark.parametrize("command", ["train mnist5k --out", "compare mnist5k --models mlp,cnn --out", "evaluate"])
def test_a_path_that_no_file_could_name_is_refused_before_any_work(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / os.fsdecode(b"p\xff")
    if command == "evaluate":
        run.mkdir()
        (run / "run.json").write_text("{}")
    code, out, err = run_convscope(capsys, *command.split(), run)
    assert (code, out) == (1, "")
    assert err == f"error: {tmp_path}/p\\udcff is not text that UTF-8 can hold; choose another path\n"


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
    images = {"0": np.zeros((4, 4, 1), np.uint8), "ü": np.full((4, 4, 1), 9, np.uint8)}
    write_thumbnails(tmp_path, images)
    back = read_thumbnails(tmp_path)
    assert list(back) == list(images)
    assert all(np.array_equal(back[name], images[name]) for name in images)
    write_thumbnails(tmp_path, {})
    assert read_thumbnails(tmp_path) == {}


# ---------------------------------------------------------------- files


def test_a_link_under_the_final_name_is_replaced_and_temporary_names_cannot_be_guessed(tmp_path: Path) -> None:
    precious, path = tmp_path / "precious", tmp_path / "a.txt"
    precious.write_text("mine")
    path.symlink_to(precious)
    write_bytes(path, b"ours")
    assert not path.is_symlink()
    assert (path.read_text(), precious.read_text()) == ("ours", "mine")
    (tmp_path / "b.txt").symlink_to(precious)
    with pytest.raises(FileExistsError):
        write_and_sync(tmp_path / "b.txt", b"ours")
    assert precious.read_text() == "mine"
    seen: list[str] = []

    def chunks() -> Iterator[bytes]:
        seen.extend(path.name for path in tmp_path.glob(".*.tmp"))
        yield b"x"

    for _ in range(2):
        write_bytes(path, Stream(1, chunks))
    assert len(set(seen)) == 2


@pytest.mark.skipif(os.name != "posix", reason="Windows has no umask")
def test_new_files_have_the_permissions_that_the_umask_leaves(tmp_path: Path) -> None:
    former = os.umask(0o027)
    try:
        write_bytes(tmp_path / "a", b"")
    finally:
        os.umask(former)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


@pytest.mark.parametrize("end", [KeyboardInterrupt, OSError], ids=["Ctrl-C", "OSError"])
def test_an_interrupted_write_leaves_the_old_content_and_nothing_else(tmp_path: Path, end: type[BaseException]) -> None:
    write_bytes(tmp_path / "a", b"old")

    def chunks() -> Iterator[bytes]:
        yield b"new"
        raise end

    with pytest.raises((KeyboardInterrupt, RunError)):
        write_bytes(tmp_path / "a", Stream(6, chunks))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"old"}


def test_what_a_killed_process_left_is_deleted_when_the_run_is_locked(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from convscope.storage.files import Stream, write_bytes\n"
        "def chunks():\n"
        "    yield b'half'\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_bytes(Path(sys.argv[1]), Stream(8, chunks))\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], check=False).returncode == -9
    assert len(list(tmp_path.glob(".*.tmp"))) == 1
    with locked(tmp_path):
        assert not list(tmp_path.glob(".*.tmp"))


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=np.float32).reshape(3, 4),
        np.arange(5, dtype=">u8"),
        np.zeros((0, 4), np.uint8),
        np.array(3.0),
        np.array(["a", "bc"]),
        np.arange(12.0).reshape(3, 4)[:, ::2],
    ],
    ids=lambda array: f"{array.dtype}{list(array.shape)}",
)
def test_arrays_are_written_as_numpy_writes_them(tmp_path: Path, array: np.ndarray) -> None:
    write_array(tmp_path / "a.npy", array)
    np.save(tmp_path / "b.npy", array)
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


def test_an_array_of_objects_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="would have to be pickled"):
        write_array(tmp_path / "a.npy", np.array([object()]))


# ---------------------------------------------------------------- the schema


def make_old(folder: Path, **changes: object) -> Path:
    run = write_run(folder, np.ones(4, bool))
    start = read_json(run / "run.json")
    del start["schema"]
    write_json(run / "run.json", start | changes)
    return run


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "convscope 0.1 wrote it before schema 2, expected schema 2"),
        ({"schema": 3}, "it has schema 3, expected schema 2"),
    ],
    ids=["none", "newer"],
)
def test_a_run_folder_of_another_schema_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, object], words: str
) -> None:
    run = make_old(tmp_path / "runs" / "old", **changes)
    for arguments in (
        ("evaluate", run),
        ("report", run),
        ("inspect", run),
        ("compare", run, run),
        ("export", run),
        ("predict", run, run),
        ("train", "--resume", run),
    ):
        code, out, err = run_convscope(capsys, *arguments)
        lines = [line for line in err.splitlines() if line]
        assert (code, out, len(lines)) == (1, "", 1), arguments
        for expected in (str(run), words, "train again into a new folder", "the convscope version that wrote it"):
            assert expected in lines[0], arguments


def test_runs_lists_what_it_cannot_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_old(tmp_path / "old")
    make_old(tmp_path / "damaged", schema=RUN_SCHEMA)  # no date, as no run.json of ours lacks
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "run.json").write_text("{")
    code, out, err = run_convscope(capsys, "runs", tmp_path)
    assert code == 0
    assert out.count("cannot be read") == 3
    assert "before schema 2" in err
    assert "is damaged" in err
    assert "cannot be read as JSON" in err
    code, out, _ = run_convscope(capsys, "runs", tmp_path, "--json")
    rows = {Path(row["run"]).name: row for row in json.loads(out)["runs"]}
    assert set(rows) == {"old", "damaged", "cut"}
    assert all(row["error"] and row["accuracy"] is None for row in rows.values())


def test_a_byte_of_a_path_that_does_not_decode_comes_back(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"source": "b\udcffd/\u00e9"})
    (tmp_path / "a.json").read_text(encoding="utf-8")
    assert read_json(tmp_path / "a.json") == {"source": "b\udcffd/\u00e9"}

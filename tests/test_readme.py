"""The README and the page on the write-ups are true: their commands exist with the options shown, and Python runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import typer

from convscope.cli import build_app
from tests.support import run_convscope

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
WRITE_UPS = (ROOT / "docs" / "where-the-write-ups-err.md").read_text()


def commands_of(page: str) -> list[list[str]]:
    """Return the convscope command lines of the indented blocks, as words."""
    found = []
    for line in re.findall(r"^    (.*)$", page, flags=re.MULTILINE):
        for piece in re.split(r"\s{2,}|#", line):
            if piece.startswith("convscope "):
                found.append(shlex.split(piece.replace("[", "").replace("]", ""))[1:])
    return found


@pytest.mark.parametrize("words", commands_of(README + WRITE_UPS), ids=" ".join)
def test_a_command_exists_with_its_options(words: list[str]) -> None:
    command = typer.main.get_command(build_app())
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in words if word.startswith("--")} <= options


def test_there_are_commands_to_check() -> None:
    assert len(commands_of(README)) >= 10


def test_what_is_said_of_the_write_ups_is_what_quick_commands_print(capsys: pytest.CaptureFixture[str]) -> None:
    printed = ""
    for words in commands_of(WRITE_UPS):
        if words[0] == "budget":
            printed += run_convscope(capsys, *words)[1]
    for figure in ("903,400", "180,200", "526.00 MB", "36.00 MB", "3.61 MB", "14.05 MB", "101,770", "8,490"):
        assert figure in printed
    assert str(float(np.float32(0.7364))) in WRITE_UPS


def test_the_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    exec(compile(block, "README.md", "exec"), {})  # the README is ours
    value, low, high, run = capsys.readouterr().out.split()
    assert float(low) < float(value) < float(high)
    assert (tmp_path / run / "report.html").exists()


def test_every_file_named_in_the_tree_exists() -> None:
    tree = README.split("## The tree", 1)[1]
    for name in re.findall(r"[\w/.-]+\.py|[a-z]+/(?=\s)|scripts/\w+", tree):
        package = ROOT / "src" / "convscope"
        candidates = [root / name for root in (ROOT, ROOT / "src", package, *package.iterdir())]
        assert any(path.exists() for path in candidates), name


def test_every_test_named_in_the_list_of_cases_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "reliability.md").read_text()))
    there = {
        name
        for path in (ROOT / "tests").glob("*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M)
    }
    assert len(named) > 40
    assert named <= there

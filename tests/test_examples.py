"""The examples run, on less than they would use, and say what is true."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def main_of(name: str) -> Callable[..., None]:
    main: Callable[..., None] = runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]
    return main


def test_every_example_is_tested() -> None:
    here, elsewhere = {"train_your_own", "look_inside", "memory"}, {"score_map"}  # see test_convert.py
    assert {path.stem for path in EXAMPLES.glob("*.py")} == here | elsewhere


def test_train_your_own(capsys: pytest.CaptureFixture[str]) -> None:
    main_of("train_your_own")(epochs=1)
    lines = capsys.readouterr().out.splitlines()
    assert "test pictures right" in lines[0]
    assert [line for line in lines if line.startswith("skipped:") and "broken.jpg" in line]
    assert len([line for line in lines if ".png: " in line]) == 3


def test_look_inside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main_of("look_inside")(tmp_path / "inside.html", epochs=1)
    out = capsys.readouterr().out
    assert "Conv2d       gives 32 x 28 x 28" in out
    assert "Grad-CAM" in (tmp_path / "inside.html").read_text()


def test_memory(capsys: pytest.CaptureFixture[str]) -> None:
    main_of("memory")()
    lines = capsys.readouterr().out.splitlines()
    assert "(3x3x100 + 1) x 200 = 180,200" in lines[1]
    assert lines[3].startswith("903,400 parameters, 3.6 MB")
    peaks: list[Any] = [int(line.split()[-2]) for line in lines[5:]]
    assert len(peaks) == 4
    assert max(peaks) < int(lines[4].split()[5])

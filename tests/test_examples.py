"""The examples run, on less than they would use, and say what is true."""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import convscope

EXAMPLES = Path(__file__).parents[1] / "examples"


def main_of(name: str) -> Callable[..., None]:
    main: Callable[..., None] = runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]
    return main


def test_every_example_is_tested() -> None:
    here, elsewhere = (
        {"train_your_own", "look_inside", "memory", "textbook_loop", "slips"},
        {"score_map"},
    )  # see test_convert.py
    assert {path.stem for path in EXAMPLES.glob("*.py")} == here | elsewhere


def test_train_your_own(capsys: pytest.CaptureFixture[str]) -> None:
    main_of("train_your_own")(epochs=1)
    lines = capsys.readouterr().out.splitlines()
    assert "test images right" in lines[0]
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


def test_the_textbook_loop_gives_the_weights_of_a_run(tmp_path: Path) -> None:
    """Plain torch with torch.optim against ours, bit for bit."""
    threads = torch.get_num_threads()
    network: nn.Module = main_of("textbook_loop")(seed=3, epochs=1)  # type: ignore[func-returns-value]
    torch.set_num_threads(threads)
    convscope.train(
        "mnist5k", model="cnn", epochs=1, split=(100, 0, 0), seed=3, threads=1, out=tmp_path / "run", report=False
    )
    trained = load_file(tmp_path / "run" / "model.safetensors")
    assert trained.keys() == network.state_dict().keys()
    for name, value in network.state_dict().items():
        assert torch.equal(trained[name], value), name


def test_slips_are_measured() -> None:
    """Every command of docs/where-the-write-ups-err.md, shorter; where a number is known, it is that one."""
    page = (EXAMPLES.parent / "docs" / "where-the-write-ups-err.md").read_text()
    named = re.findall(r"^    python examples/slips\.py (\S+)", page, flags=re.MULTILINE)
    main, shorter = main_of("slips"), ["--seeds", "1", "--epochs", "1", "--images", "500"]
    found: dict[str, Any] = {slip: main([slip, *shorter]) for slip in named}  # type: ignore[func-returns-value]
    assert set(found) == {"dropout-at-test", "relu-on-logits", "loss-over-images", "rotation", "softmax-twice"}
    assert all(0 < value < 100 for values in found.values() for (value,) in values.values())
    (mean,), (slip_loss,) = found["loss-over-images"].values()
    assert mean / slip_loss == pytest.approx(1000 / 16, rel=0.05)

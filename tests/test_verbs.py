"""Every verb of the command line is a function of the same name, and leaves the process as it found it."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.main import get_command

import convscope
from convscope.cli import COMMANDS, DATA_COMMANDS, build_app
from convscope.device import configure_threads, process_unchanged
from tests.support import run_convscope

LISTS = {"models": "list_models", "runs": "list_runs"}
"""Commands that list, and their functions: their own names are those of packages."""
NOT_OPTIONS = {"as_json", "list_", "options", "data", "models", "what", "layers", "csv", "moved_to"}
"""Parameters of commands that say how to print, or stand for the arguments of a function under another name."""


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_a_function(name: str) -> None:
    function = getattr(convscope, LISTS.get(name, name))
    assert inspect.isfunction(function)
    assert function.__module__ == f"convscope.api.{name}"
    assert LISTS.get(name, name) in convscope.__all__
    assert all(p.annotation is not inspect.Parameter.empty for p in inspect.signature(function).parameters.values())


@pytest.mark.parametrize("name", sorted({*COMMANDS} - {*LISTS}))
def test_the_options_of_a_command_are_those_of_its_function(name: str) -> None:
    command = get_command(build_app(name)).commands[name]  # type: ignore[attr-defined]
    ours = {"help", *NOT_OPTIONS, "input_", "resume", "out", "run", "target", "data_dir", "model", "paths", "name"}
    keywords = set(inspect.signature(getattr(convscope, name)).parameters)
    assert {parameter.name for parameter in command.params} - ours <= keywords


def test_no_module_hides_a_verb() -> None:
    """`convscope.export` would be the module once anything had imported it."""
    for module in pkgutil.iter_modules(convscope.__path__):
        importlib.import_module(f"convscope.{module.name}")
    for name in convscope.__all__:
        assert inspect.isfunction(getattr(convscope, name)), name


def test_the_old_spelling_of_check_works(capsys: pytest.CaptureFixture[str]) -> None:
    assert DATA_COMMANDS["check"] == "check.check"
    outputs = [run_convscope(capsys, *words, "digits", "--json")[1] for words in (("check",), ("data", "check"))]
    assert outputs[0] == outputs[1] != ""


def state_of_the_process() -> dict[str, Any]:
    tiny = torch.tensor(2.0**-1060, dtype=torch.float64)
    return {
        "threads": torch.get_num_threads(),
        "denormals": float(tiny * 1.0),
        "random state": torch.get_rng_state().tolist(),
        "grad": torch.is_grad_enabled(),
        "dtype": torch.get_default_dtype(),
    }


def test_a_number_of_threads_holds_for_one_call() -> None:
    """None is the number that the process had, whatever earlier and surrounding calls asked for."""
    former, seen = torch.get_num_threads(), list[int]()

    @process_unchanged()
    def verb(threads: int | None) -> None:
        configure_threads(threads)
        seen.append(torch.get_num_threads())

    @process_unchanged()
    def outer() -> None:
        for threads in (1, None):
            configure_threads(2)
            verb(threads)

    try:
        for own in (3, 4):
            torch.set_num_threads(own)
            for threads in (1, None, 2, None):
                verb(threads)
            outer()
            assert torch.get_num_threads() == own
    finally:
        torch.set_num_threads(former)
    assert seen == [1, 3, 2, 3, 1, 3, 1, 4, 2, 4, 1, 4]


@pytest.mark.slow
def test_every_verb_is_called_and_the_process_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    photo = tmp_path / "photo.png"
    Image.fromarray(np.full((20, 30, 3), 99, np.uint8)).save(photo)
    torch.manual_seed(5)
    torch.set_num_threads(2)
    torch.set_flush_denormal(False)
    before = state_of_the_process()
    assert before["denormals"] > 0
    run = Path(convscope.train("digits", epochs=1, threads=1, out="run").run)
    assert state_of_the_process() == before
    assert convscope.resume(run).accuracy == convscope.evaluate(run).accuracy
    assert convscope.report(run) == run / "report.html"
    assert convscope.export(run, out=tmp_path / "other.onnx").is_file()
    assert len(convscope.predict(run, [photo]).predictions) == 1
    assert Path(convscope.inspect(run, image=photo).page).is_file()
    comparison, folder = convscope.compare("digits", models=["mlp", "auto"], seeds=1, epochs=1, jobs=1)
    assert len(comparison.models) == 2
    assert (folder / "comparison.html").is_file()
    assert convscope.budget("mlp", batch_size=4).num_params == 101_770
    assert convscope.check("digits").found == 1797
    assert convscope.recipe("demo", epochs=1, per_class=10, report=False).model == "auto"
    assert convscope.lab("padding", quick=True, jobs=1).seeds == 2
    assert {row["run"] for row in convscope.list_runs("runs")} >= {"runs/mnist5k-auto-1"}
    assert len(convscope.list_models()[0]) > 10
    assert state_of_the_process() == before

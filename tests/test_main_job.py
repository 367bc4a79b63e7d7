"""The main job from the command line: train, evaluate, report, list; on real images, and what is refused."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

import convscope
from convscope.run.configure import command_of
from convscope.storage.files import read_csv, read_json
from convscope.storage.run_folder import read_config
from convscope.writeups.recipes import RECIPES
from tests.support import run_convscope, write_folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on embedded digits, by the Python function."""
    out = tmp_path_factory.mktemp("runs") / "digits"
    convscope.train("digits", epochs=4, out=out)
    return out


def test_a_run_folder_holds_what_is_promised(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert names >= {
        "run.json",
        "history.jsonl",
        "split.csv",
        "skipped.csv",
        "checkpoints",
        "model.safetensors",
        "model.json",
        "predictions.csv",
        "mistakes.csv",
        "results.json",
        "report.html",
    }
    results, start = read_json(run / "results.json"), read_json(run / "run.json")
    assert set(results) >= {"run", "model", "data", "seed", "num_params", "train_seconds", "accuracy", "loss", "macs"}
    assert set(results["accuracy"]) == {"value", "low", "high", "correct", "n"}
    assert (
        results["split_sha256"] == start["split_sha256"] == hashlib.sha256((run / "split.csv").read_bytes()).hexdigest()
    )
    assert 0 < results["fraction_of_peak_flops"] <= 1
    assert results["peak_memory_bytes"] > 50e6
    assert results["accuracy"]["value"] > 0.9
    assert sum(map(sum, results["confusion"])) == results["accuracy"]["n"]
    assert sum(sum(counts) for counts in start["data"]["class_counts"].values()) == 1797


def test_predictions_and_results_say_the_same(run: Path) -> None:
    rows, results = read_csv(run / "predictions.csv"), read_json(run / "results.json")
    right = [row for row in rows if row["true"] == row["predicted"]]
    assert len(right) == results["accuracy"]["correct"]
    assert len(rows) - len(right) == len(read_csv(run / "mistakes.csv"))
    assert np.mean([float(row["loss"]) for row in rows]) == pytest.approx(results["loss"], rel=1e-4)
    tested = {row["image"] for row in read_csv(run / "split.csv") if row["split"] == "test"}
    assert {row["image"] for row in rows} == tested


def test_evaluate_repeats_the_results(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / "predictions.csv").read_bytes(), read_json(run / "results.json")
    code, out, _ = run_convscope(capsys, "evaluate", run, "--json")
    assert code == 0
    assert json.loads(out) == before[1]
    assert ((run / "predictions.csv").read_bytes(), read_json(run / "results.json")) == before


def test_evaluate_on_other_data_needs_the_same_classes(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run_convscope(capsys, "evaluate", run, "mnist5k", "--json")
    assert code == 0
    assert json.loads(out)["accuracy"]["n"] == 1000
    assert (run / "evaluations" / "mnist5k" / "predictions.csv").exists()
    assert read_json(run / "results.json")["data"] == "digits"
    code, _, err = run_convscope(capsys, "evaluate", run, write_folder(tmp_path / "data"))
    assert code == 1
    assert "the same classes" in " ".join(err.split())


def test_the_command_of_the_report_repeats_the_run(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = read_config(run)
    command = read_json(run / "run.json")["command"]
    assert command == command_of(config)
    assert f"<span>{command.split()[-1]}</span>" in (run / "report.html").read_text("utf-8")
    assert run_convscope(capsys, *shlex.split(command)[1:], "--out", tmp_path / "run", "--no-report")[0] == 0
    weights = [(folder / "model.safetensors").read_bytes() for folder in (run, tmp_path / "run")]
    assert weights[0] == weights[1]


def test_report_and_runs(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "report.html").unlink()
    code = (
        "import sys\nfrom convscope.cli import main\n"
        f"sys.argv = ['convscope', 'report', {str(run)!r}]\nmain()\n"
        "sys.exit(any(name.split('.')[0] in ('torch', 'torchvision', 'timm') for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    (run / "report.html").unlink()
    code, out, _ = run_convscope(capsys, "report", run)
    assert (code, Path(out.strip())) == (0, run / "report.html")
    assert (run / "report.html").stat().st_size < 4e6
    code, out, _ = run_convscope(capsys, "runs", run.parent, "--json")
    (row,) = json.loads(out)["runs"]
    assert (code, row["data"], row["model"], row["run"]) == (0, "digits", "auto", str(run))
    code, out, _ = run_convscope(capsys, "runs", run.parent)
    assert "digits" in out


def test_a_folder_of_photos_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = write_folder(tmp_path / "data"), tmp_path / "run"
    (data / "class 0" / "broken.jpg").write_bytes(b"")
    (data / "class 1" / "text.jpg").write_text("hello")
    code, stdout, err = run_convscope(
        capsys, "train", data, "--epochs", "8", "--augment", "flip,color", "--out", out, "--json"
    )
    assert code == 0, err
    result = json.loads(stdout)
    assert result["accuracy"]["n"] == 12  # 15 % of 30, rounded, in each of three classes
    assert result["accuracy"]["value"] > 0.8
    assert [(row["file"], row["reason"]) for row in read_csv(out / "skipped.csv")] == [
        ("class 0/broken.jpg", "empty file"),
        ("class 1/text.jpg", "not an image (looks like text)"),
    ]
    assert len(read_csv(out / "split.csv")) == 90
    note = "2 files were skipped, 90 images used; skipped.csv lists reasons and remedies"
    assert result["notes"] == read_json(out / "results.json")["notes"] == [note]
    assert note in (out / "report.html").read_text("utf-8")


def test_normalization_can_be_turned_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, _ = run_convscope(capsys, "train", "digits", "--epochs", "1", "--no-normalize", "--out", tmp_path / "run")
    assert code == 0
    assert read_json(tmp_path / "run" / "model.json")["preprocessing"]["mean"] == [0.0]


def test_the_version_is_that_of_the_package(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run_convscope(capsys, "--version")
    assert (code, out) == (0, f"convscope {version('convscope')}\n")
    assert read_json(run / "run.json")["convscope"] == version("convscope")


def test_tables_list_every_name(capsys: pytest.CaptureFixture[str]) -> None:
    from convscope.data.load import DATASETS
    from convscope.models import MODELS

    for command, key, names in (
        ("data list", "data", DATASETS),
        ("models", "models", MODELS),
    ):
        code, out, _ = run_convscope(capsys, *command.split(), "--json")
        assert code == 0
        listed = [entry.get("name") or entry.get("model") for entry in json.loads(out)[key]]
        assert listed == list(names)
        shown = run_convscope(capsys, *command.split())[1]
        assert all(name in shown for name in names)
    listed = json.loads(run_convscope(capsys, "recipe", "--list", "--json")[1])["recipes"]
    assert [entry["recipe"] for entry in listed] == list(RECIPES)
    code, out, _ = run_convscope(capsys, "models", "cnn*", "--json")
    assert [entry["model"] for entry in json.loads(out)["models"]] == ["cnn-small", "cnn", "cnn-dropout"]


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("train mnist6k", 2, "unknown data set or folder 'mnist6k'. Did you mean 'mnist5k'"),
        ("train digits --model resnet", 2, "unknown model 'resnet'"),
        ("train digits --model lenet5", 2, "too small for this network; use a larger --image-size"),
        ("train digits --epochs 0", 2, "--epochs takes 1 or more"),
        ("train digits --split 70/30", 2, "not three percentages"),
        ("train digits --split a/b/c", 2, "not three percentages"),
        ("train digits --split 100/0/0", 2, "no images to evaluate on"),
        ("train digits --device cuda:77", 2, "device 'cuda:77'"),
        ("train digits --augment flop", 2, "unknown augmentation 'flop'"),
        ("train digits --bogus", 2, "No such option"),
        ("train nowhere/images.zip", 2, "no folder, archive or CSV"),
        ("train https://example.org/images.zip", 2, "is a web address; download what is there"),
        ("train", 2, "name the data to train on"),
        ("train mnist --data-dir {tmp}", 1, "train-images-idx3-ubyte"),
        ("train --resume {tmp}", 1, "run.json does not exist"),
        ("train --resume {tmp} --epochs 3", 2, "it takes no --epochs"),
        ("evaluate {tmp}", 1, "model.json does not exist"),
        ("report {tmp}", 1, "run.json does not exist"),
        ("report {tmp}/none", 1, "there is no run folder"),
        ("export {tmp}/none", 1, "there is no run folder"),
        ("train mnist --data-dir {tmp}/none", 1, "which is not a folder"),
        ("train {tmp}/none", 2, "no folder, archive or CSV"),
        ("recipe n99", 2, "unknown recipe 'n99'"),
        ("train digits --out {tmp}/file/run", 1, "file is not a folder that can be written"),
        ("train {tmp}", 1, "class"),
        ("train {tmp}/file", 1, "file"),
    ],
)
def test_what_cannot_be_meant_ends_in_one_line_and_leaves_nothing(
    command: str,
    code: int,
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("a file")
    before = {path.name for path in tmp_path.iterdir()}
    got, out, err = run_convscope(capsys, *shlex.split(command.format(tmp=tmp_path)))
    assert got == code, err
    assert words in " ".join(err.split()), err
    assert out == ""
    assert {path.name for path in tmp_path.iterdir()} - {".lock"} == before


def test_runs_are_listed_a_line_each(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run_convscope(capsys, "runs", run.parent)
    lines = [line for line in out.splitlines() if run.name in line]
    assert code == 0
    assert len(lines) == 1
    assert re.search(r" \d{4}-\d\d-\d\d \d\d:\d\d ", lines[0])
    code, out, err = run_convscope(capsys, "runs", tmp_path)
    assert (code, out) == (0, "")
    assert "`convscope train` makes one" in " ".join(err.split())


def test_a_run_in_progress_is_not_disturbed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from convscope.storage.run_folder import locked

    with locked(run):
        code, _, err = run_convscope(capsys, "train", "--resume", run)
    assert code == 1
    assert "is being written by pid" in " ".join(err.split())


def test_data_that_changed_are_named_on_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Case 24."""
    data, out = write_folder(tmp_path / "data"), tmp_path / "run"
    assert run_convscope(capsys, "train", data, "--epochs", "1", "--out", out, "--no-report")[0] == 0
    moved = data / "class 0" / "3.png"
    content = moved.read_bytes()
    moved.unlink()
    code, _, err = run_convscope(capsys, "train", "--resume", out)
    assert code == 1
    assert "missing: class 0/3.png" in " ".join(err.split())
    moved.write_bytes((data / "class 1" / "40.png").read_bytes())  # there, and another image
    for arguments in (("train", "--resume", out), ("evaluate", out)):
        code, _, err = run_convscope(capsys, *arguments)
        assert code == 1
        assert "; other content: class 0/3.png" in " ".join(err.split())
        assert "missing" not in err
    moved.write_bytes(content)
    assert run_convscope(capsys, "train", "--resume", out, "--no-report")[0] == 0


def test_names_with_commas_and_quotes_stay_one_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = write_folder(tmp_path / "data"), tmp_path / "run"
    (data / "class 0" / "0.png").rename(data / "class 0" / 'a, "b"\n=1.png')
    assert run_convscope(capsys, "train", data, "--epochs", "1", "--out", out)[0] == 0
    with (out / "split.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert len(rows) == 91 == len((out / "split.csv").read_text().splitlines())

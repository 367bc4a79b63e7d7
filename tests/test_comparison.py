"""Runs side by side: what is refused, how runs are grouped and named, what is trained, and what is written."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import convscope
from convscope import cpu
from convscope.comparison import runner as processes
from convscope.comparison.compare import compare_runs, comparison_to_json, points_text
from convscope.comparison.plan import plan_runs
from convscope.comparison.recorded import name_configs
from convscope.comparison.runner import Need, choose_jobs, predict_needs
from convscope.config import ComputeConfig, DataConfig, ModelConfig, RunConfig, TrainConfig
from convscope.device import SMALL_STEP_MACS
from convscope.errors import RunError, UsageError
from convscope.memory.predict import budget_of_run
from convscope.results.comparison import CANNOT_TELL
from convscope.storage.files import read_csv, read_json
from tests.support import N, draw, run_convscope, write_run


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Three seeds of a weak network and two of a strong one."""
    weak = [write_run(tmp_path / f"weak-{seed}", draw(0.7, seed), seed=seed) for seed in range(3)]
    return weak + [write_run(tmp_path / f"cnn-{s}", draw(0.9, 10 + s), model="cnn", seed=s) for s in range(2)]


def test_models_pairs_and_images_are_counted_right(runs: list[Path]) -> None:
    comparison = compare_runs(runs)
    weak, strong = comparison.models
    accuracies = [read_json(run / "results.json")["accuracy"]["value"] for run in runs]
    assert (weak.model, strong.model, weak.n_seeds, strong.n_seeds) == ("mlp", "cnn", 3, 2)
    assert weak.accuracy.value == pytest.approx(np.mean(accuracies[:3]))
    assert strong.std == pytest.approx(np.std(accuracies[3:], ddof=1))
    assert weak.train_seconds == 3.0
    (pair,) = comparison.pairs
    assert (pair.a, pair.b, pair.verdict, pair.rests_on) == ("mlp", "cnn", "cnn", "images and seeds")
    assert pair.difference == pytest.approx(np.mean(accuracies[3:]) - np.mean(accuracies[:3]))
    assert 0 < pair.low < pair.difference < pair.high
    assert pair.sentence.startswith("cnn is better than mlp (+")
    assert [(test.seed_a, test.seed_b) for test in pair.mcnemar] == [(0, 0), (1, 1)]
    shares = [draw(0.7, s).astype(float) for s in range(3)], [draw(0.9, 10 + s).astype(float) for s in range(2)]
    lead = np.mean(shares[1], axis=0) - np.mean(shares[0], axis=0)
    assert {entry.image for entry in pair.disagreements} == {f"{i}.png" for i in np.flatnonzero(lead)}
    first = pair.disagreements[0]
    assert first.correct_b - first.correct_a == pytest.approx(lead[int(first.image[:-4])])
    assert abs(first.correct_b - first.correct_a) == 1
    assert {first.predicted_a, first.predicted_b} == {"it", "other"}


def test_the_tree_has_the_promised_keys(runs: list[Path]) -> None:
    tree = json.loads(json.dumps(comparison_to_json(compare_runs(runs)), allow_nan=False))
    assert set(tree["models"][0]) >= {"model", "accuracy", "std", "n_seeds", "num_params", "macs", "train_seconds"}
    promised = {"a", "b", "difference", "low", "high", "p_value", "p_adjusted", "verdict"}
    assert set(tree["pairs"][0]) >= promised


def test_runs_of_one_network_stand_for_themselves(runs: list[Path]) -> None:
    comparison = compare_runs(runs[1:3])
    assert [model.model for model in comparison.models] == ["mlp seed=1", "mlp seed=2"]
    (pair,) = comparison.pairs
    assert (pair.verdict, pair.rests_on) == (CANNOT_TELL, "images, with seeds assumed")
    assert re.search(r"about [\d,]+ more test images or --seeds 3 might", pair.sentence)


def test_one_run_of_each_is_not_enough_for_a_small_difference(tmp_path: Path) -> None:
    """The write-up's mistake: 1.2 points on one run each of 10,000 images."""
    n, share = 10_000, 0.7364
    a = draw(share, 0, n)
    b = a.copy()
    b[np.flatnonzero(~a)[:760]] = True
    b[np.flatnonzero(a)[:640]] = False
    pair = compare_runs([write_run(tmp_path / "a", a), write_run(tmp_path / "b", b, model="cnn")]).pairs[0]
    assert pair.difference == pytest.approx(0.012)
    assert pair.mcnemar[0].p_value < 0.05
    assert pair.low < 0 < pair.high
    assert pair.p_value > 0.05
    assert pair.verdict == CANNOT_TELL
    assert "other seeds might not" in pair.sentence


@pytest.mark.parametrize("networks", [2, 4])
def test_verdicts_agree_with_the_intervals_beside_them(tmp_path: Path, networks: int) -> None:
    """From no lead to a clear one: the verdict, the interval, the adjusted p value and the sentence say the same."""
    ease = np.random.default_rng(0).normal(1.2, 0.8, N)
    random, found = np.random.default_rng(1), set()
    runs = [
        write_run(
            tmp_path / f"{lead}-{seed}",
            random.normal(size=N) < ease + lead,
            model="stack",
            stack=f"linear {lead + 2}",
            seed=seed,
        )
        for lead in range(networks)
        for seed in range(3)
    ]
    for pair in compare_runs(runs).pairs:
        better = pair.b if pair.low > 0 else pair.a if pair.high < 0 else CANNOT_TELL
        assert pair.verdict == better
        assert (pair.p_adjusted < 0.05) == (better != CANNOT_TELL)
        assert not re.search(r"[+-]0\.0*( to|\))", pair.sentence)
        found.add(better == CANNOT_TELL)
    assert found


@pytest.mark.parametrize(
    ("value", "low", "high", "text"),
    [
        (0.021, 0.0004, 0.041, "+2.10 points, +0.04 to +4.10"),
        (-0.012, -0.024, 0.00003, "-1.200 points, -2.400 to +0.003"),
        (0.01, 0.002, 0.018, "+1.0 points, +0.2 to +1.8"),
        (0.01, 0.0095, 0.0105, "+1.00 points, +0.95 to +1.05"),
        (0.0, -1.0, 1.0, "+0.0 points, -100.0 to +100.0"),
    ],
)
def test_no_bound_looks_like_zero(value: float, low: float, high: float, text: str) -> None:
    assert points_text(value, low, high) == text


def test_a_difference_that_is_open_says_what_would_settle_it(tmp_path: Path) -> None:
    ease = np.random.default_rng(0).normal(1.2, 0.8, N)
    random = np.random.default_rng(1)
    runs = [
        write_run(
            tmp_path / f"{model}-{seed}", random.normal(size=N) < ease + lead, model=model, seed=seed
        )
        for model, lead in (("mlp", 0.0), ("cnn", 0.1))
        for seed in range(3)
    ]  # fmt: skip
    (pair,) = compare_runs(runs).pairs
    assert pair.verdict == CANNOT_TELL
    assert pair.low < 0 < pair.high
    assert pair.more_images or pair.more_seeds or "more" in pair.sentence
    if pair.more_images:
        assert f"about {float(f'{pair.more_images:.2g}'):,.0f} more test images" in pair.sentence


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"split": "cd"}, "do not have the same images in the same splits"),
        ({"seed": 0}, "one repeats the other"),
        ({"seed": 0, "threads": 1, "device": "cpu"}, "one repeats the other"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    first = write_run(tmp_path / "first", draw(0.7, 0))
    other = write_run(tmp_path / "other", draw(0.7, 1), **{"seed": 1, **change})
    with pytest.raises(RunError, match=words):
        compare_runs([first, other])


def test_other_images_and_unfinished_runs_are_refused(tmp_path: Path) -> None:
    first = write_run(tmp_path / "first", draw(0.7, 0))
    with pytest.raises(
        RunError, match=r"measured on different images \(400 of the test split, 300 of the test split\)"
    ):
        compare_runs([first, write_run(tmp_path / "second", draw(0.7, 1, 300), seed=1)])
    with pytest.raises(RunError, match="cannot be compared; name two"):
        compare_runs([first])
    (first / "results.json").unlink()
    with pytest.raises(RunError, match="convscope train --resume"):
        compare_runs([first])


def test_names_tell_what_differs() -> None:
    plain = RunConfig(data=DataConfig(source="made"), model=ModelConfig(name="cnn"), train=TrainConfig(lr=0.01))
    crop = replace(plain, train=replace(plain.train, augment=("flip", "crop"), normalize=False))
    crop = replace(crop, compute=ComputeConfig(threads=1, memory=2**32, micro_batches=4, evaluation_batch_size=8))
    mlp = replace(plain, model=ModelConfig(name="mlp"))
    assert name_configs([plain, mlp]) == ["cnn", "mlp"]
    assert name_configs([plain, crop, mlp]) == [
        "cnn augment=none normalize=on",
        "cnn augment=flip+crop normalize=off",
        "mlp",
    ]


def test_variations_multiply_and_go_back_to_their_names() -> None:
    vary = ["normalize=on,off", "augment=none,flip+crop"]
    configs = plan_runs("digits", models=None, seeds=2, vary=vary, epochs=3)
    assert len(configs) == 8
    assert {config.train.epochs for config in configs} == {3}
    assert [config.train.seed for config in configs] == [0] * 4 + [1] * 4
    assert name_configs(configs[:4])[3] == "auto augment=flip+crop normalize=off"
    sizes = plan_runs("digits", models=["auto"], seeds=1, vary=["image-size=8,12", "lr=0.1", "split=70/15/15,80/10/10"])
    assert [(c.data.image_size, c.train.lr, c.data.split) for c in sizes[:2]] == [
        (8, 0.1, (70, 15, 15)),
        (8, 0.1, (80, 10, 10)),
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"vary": ["normalise=on,off"]}, "Did you mean 'normalize'"),
        ({"vary": ["normalize=yes,no"]}, "neither on nor off"),
        ({"vary": ["lr=fast,slow"]}, "is not a number"),
        ({"vary": ["lr"]}, "names no values"),
        ({"models": ["mlp"]}, "only one network"),
        ({"models": ["mlp", "cnm"]}, "unknown model 'cnm'"),
        ({"models": ["mlp", "cnn"], "seeds": 0}, "--seeds takes 1 or more"),
    ],
)
def test_a_plan_that_cannot_be_meant_is_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        plan_runs("digits", **{"models": None, "seeds": 1, **arguments})


# ---------------------------------------------------------------- the verb


COMMAND = ("compare", "digits", "--models", "auto", "--vary", "lr=0.01,0.00001", "--seeds", "2", "--epochs", "2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of four short runs, two at once."""
    out = tmp_path_factory.mktemp("compare") / "out"
    convscope.compare("digits", models=["auto"], vary=["lr=0.01,0.00001"], seeds=2, epochs=2, jobs=2, out=out)
    return out


def test_a_comparison_trains_what_is_missing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = sorted(path.parent for path in folder.glob("*/results.json"))
    assert len(runs) == 4
    before = {run: (run / "results.json").stat().st_mtime_ns for run in runs}
    history, predictions = (runs[0] / "history.jsonl").read_bytes(), (runs[0] / "predictions.csv").read_bytes()
    (runs[0] / "results.json").unlink()  # stopped before it was measured: the rest of it is there
    shutil.rmtree(runs[1])
    runs[1].mkdir()
    (runs[1] / "split.csv").write_text("half written")
    code, out, err = run_convscope(capsys, *COMMAND, "--jobs", "2", "--out", folder, "--json")
    assert code == 0, err
    after = {run: (run / "results.json").stat().st_mtime_ns for run in runs}
    assert [run for run in runs if after[run] == before[run]] == runs[2:]
    assert (runs[0] / "history.jsonl").read_bytes() == history
    assert (runs[0] / "predictions.csv").read_bytes() == predictions
    tree = json.loads(out)
    assert (tree.pop("comparison"), tree.pop("page")) == (str(folder), str(folder / "comparison.html"))
    assert tree == read_json(folder / "comparison.json")
    assert [model["n_seeds"] for model in tree["models"]] == [2, 2]
    assert tree["pairs"][0]["verdict"] == "auto lr=0.01"
    retrained = [read_json(run / "run.json")["config"]["train"] for run in runs[:2]]
    for config in retrained:
        assert f"auto lr={config['lr']} seed {config['seed']}  accuracy" in err
    assert read_json(runs[0] / "run.json")["config"]["compute"]["threads"] >= 1
    predicted = convscope.budget("auto", input_shape=(1, 8, 8), batch_size=256, num_classes=10)
    for model in tree["models"]:
        assert model["step_memory_bytes"] == predicted.memory.training_peak_bytes
        assert 0 < model["latency_ms"] < 1000


def test_finished_runs_are_compared_as_they_are(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = sorted(path.parent for path in folder.glob("*/results.json"))
    code, out, err = run_convscope(capsys, "compare", *runs)
    assert code == 0, err
    assert "auto lr=0.01 is better than auto lr=1e-05" in out
    (written,) = (tmp_path / "runs").iterdir()
    assert out.splitlines()[-1] == str(written.relative_to(tmp_path) / "comparison.html")
    assert (written / "comparison.html").read_text().count("<img") >= 5
    with (written / "comparison.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["model"] for row in table] == [m["model"] for m in read_json(written / "comparison.json")["models"]]
    (pair,) = read_csv(written / "pairs.csv")
    assert pair["verdict"] == "auto lr=0.01"
    assert len(read_csv(written / "disagreements.csv")) == read_json(written / "comparison.json")["pairs"][0][
        "num_disagreements"
    ]  # fmt: skip
    code, out_of_folder, _ = run_convscope(capsys, "compare", folder, "--out", tmp_path / "again")
    said, said_again = ([line.rsplit(None, 1)[0] for line in text.splitlines()[:-1]] for text in (out, out_of_folder))
    assert said_again == said  # but for the last column, a time


def test_as_many_runs_at_once_as_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "available_processors", lambda: 4)
    config = RunConfig(data=DataConfig(source="made"), compute=ComputeConfig(device="cpu"))
    needs = [Need(10, 1), Need(10**18, 1), Need(1, 1)]  # the second has no room beside any other
    assert choose_jobs([config] * 3, needs, None) == 1
    assert choose_jobs([config] * 3, [Need(1, 1)] * 3, None) == 3
    assert choose_jobs([config] * 9, [Need(1, 1)] * 9, None) == 4
    assert choose_jobs([config] * 3, needs, 2) == 2


def test_runs_share_the_cores_and_tiny_ones_take_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "available_processors", lambda: 8)
    config = RunConfig(data=DataConfig(source="made"))
    asked = replace(config, compute=ComputeConfig(threads=3))

    def threads(config: RunConfig, macs: int | None, jobs: int) -> int | None:
        return processes._with_threads(config, Need(1, macs), jobs).compute.threads

    assert [threads(config, macs, 2) for macs in (SMALL_STEP_MACS, None, SMALL_STEP_MACS - 1)] == [4, 4, 1]
    assert threads(config, SMALL_STEP_MACS, 1) is None
    assert [threads(asked, 1, jobs) for jobs in (1, 2)] == [3, 3]


def test_what_a_run_needs_grows_with_its_network_and_its_images() -> None:
    small, large = (
        RunConfig(data=DataConfig(source="digits"), model=ModelConfig(name="stack", stack=f"conv {c} 3x3; linear 10"))
        for c in (2, 512)
    )
    needs = predict_needs([small, large], lambda progress: None)
    steps = [budget_of_run(config, (1, 8, 8), 10) for config in (small, large)]
    assert all(
        need.process_bytes and step and need.process_bytes > step.memory.training_peak_bytes
        for need, step in zip(needs, steps, strict=True)
    )
    assert needs[1].process_bytes - needs[0].process_bytes > 512 * 36 * 4 * 64  # the maps of a batch
    assert [need.step_macs for need in needs] == [64 * (9 * c * 36 + 36 * c * 10) for c in (2, 512)]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("digits", "mnist5k", "--models", "mlp,cnn"), 2, "compared on one data set"),
        (("digits",), 1, "holds no run"),
        (("digits", "--models", "auto,lenet5", "--jobs", "0"), 2, "--jobs takes 1 or more"),
        (("digits", "--models", "lenet5,auto", "--seeds", "1", "--jobs", "1"), 2, "too small for this network"),
    ],
)
def test_what_cannot_be_meant_ends_in_one_line(
    arguments: tuple[str, ...], code: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    got, out, err = run_convscope(capsys, "compare", *arguments, "--out", tmp_path / "out")
    assert (got, out) == (code, "")
    assert words in " ".join(err.split())


def test_options_say_nothing_about_finished_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run_convscope(capsys, "compare", folder, "--epochs", "3")
    assert code == 2
    assert "finished runs are compared as they are" in " ".join(err.split())

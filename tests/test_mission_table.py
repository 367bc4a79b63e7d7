"""docs/results.md is made from run folders: which run belongs to which recipe, and what the rows say."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest

from convscope.comparison.compare import compare_runs, comparison_to_json
from convscope.config import config_to_json
from convscope.results.run import accuracy_of
from convscope.storage.files import read_json, write_json
from convscope.storage.run_start import RUN_SCHEMA
from convscope.writeups.recipes import RECIPES
from tests.support import draw, write_run

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "mission_table.py"


def write_recipe_run(
    folder: Path,
    recipe: str,
    correct: int,
    *,
    data: dict[str, Any] | None = None,
    compute: dict[str, Any] | None = None,
    images: int | None = None,
    trained: int | None = None,
    **train: object,
) -> None:
    """Write what the table reads of a run of a recipe, with some options changed.

    Args:
        images, trained: the numbers of training images and epochs, where they are not the recipe's.
    """
    config = RECIPES[recipe].config
    images = RECIPES[recipe].train_images if images is None else images
    config = replace(config, data=replace(config.data, **(data or {})), train=replace(config.train, **train))
    config = replace(config, compute=replace(config.compute, **(compute or {})))
    counts = {"train": [images // 2, images - images // 2], "validation": [5, 5], "test": [100, 100]}
    facts = {
        "schema": RUN_SCHEMA,
        "config": config_to_json(config),
        "data": {"name": "mnist", "fingerprint": "00", "class_counts": counts},
        "hardware": {"name": "a processor", "device": "cpu", "cpu_cores": 2, "threads": 1, "platform": "Linux"},
        "versions": {"torch": "2.10"},
    }
    results = {"accuracy": accuracy_of(correct=correct, n=200).__dict__, "train_seconds": 75.0}
    results |= {"peak_memory_bytes": 2**30, "epochs": trained or config.train.epochs}
    folder.mkdir(parents=True)
    write_json(folder / "run.json", facts)
    write_json(folder / "results.json", results)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("runs")
    for seed, correct in enumerate((190, 180, 194)):
        write_recipe_run(folder / f"a{seed}", "n1", correct, seed=seed, compute={"threads": 1})
    write_recipe_run(folder / "again", "n1", 100, seed=0)  # a seed that is there already counts once: the first
    write_recipe_run(folder / "b", "n1-ours", 196)
    for split_seed, correct in enumerate((150, 160)):
        data = {"source": "flowers.zip", "split_seed": split_seed}
        write_recipe_run(folder / f"s{split_seed}", "n13-ours", correct, data=data)
    images = {"source": str(folder / "p.tar"), "data_dir": str(folder), "per_class": 30}
    write_recipe_run(folder / "c", "n8", 100, data=images, images=40, epochs=2)
    write_recipe_run(folder / "few", "n7", 120, data={"source": "cats.zip"}, images=1942)
    write_recipe_run(folder / "norm", "n2-normalized", 190)
    write_recipe_run(folder / "stopped", "n2", 188, trained=7)
    write_recipe_run(folder / "tuned", "n13-unfrozen", 140, data={"source": "flowers.zip"})
    write_recipe_run(folder / "d", "n3", 199, lr=0.5)  # another learning rate: no run of the recipe
    compared = folder / "compared"
    runs = [write_run(compared / model, draw(share, 1), model=model) for model, share in (("mlp", 0.6), ("cnn", 0.9))]
    for run in runs:
        facts, counts = read_json(run / "run.json"), {"train": [7], "validation": [1], "test": [400]}
        write_json(run / "run.json", facts | {"data": {"name": "made", "fingerprint": "0", "class_counts": counts}})
    write_json(compared / "comparison.json", comparison_to_json(compare_runs(runs)))
    return draw_page(folder, folder, "--comparison", compared)


def draw_page(place: Path, *arguments: str | Path) -> str:
    out = place / "results.md"
    kept = ("--kept", place / "recipes.json", "--out", out)
    subprocess.run([sys.executable, SCRIPT, *arguments, *kept], check=True)
    return out.read_text()


def rows(page: str, first: str) -> list[list[str]]:
    lines = [line for line in page.splitlines() if line.startswith(f"| {first} |")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_a_row_is_the_mean_over_the_seeds_of_a_recipe(page: str) -> None:
    (row,) = rows(page, "`n1`")
    accuracies = [0.95, 0.90, 0.97]
    assert row[4:6] == ["3", f"{100 * mean(accuracies):.2f}\u00a0% ± {100 * stdev(accuracies):.2f}"]
    assert row[2:4] == ["60,000 / 10 / 200", "10"]
    assert row[7:] == ["1 min 15 s", "1.0 GiB"]
    (system,) = rows(page, "N1")
    assert system == ["N1", "mlp", "96.7 %", f"{row[5]} (n = 3)", "`n1-ours` 98.00\u00a0% (n = 1)"]


def test_splits_of_a_recipe_share_a_row_that_names_them(page: str) -> None:
    assert rows(page, "`n13-ours`")[0][4:6] == ["2 splits", f"77.50\u00a0% ± {100 * stdev((0.75, 0.8)):.2f}"]
    assert rows(page, "N13")[0][4].endswith("(n = 2 splits)")


def test_shortened_runs_say_so_and_runs_of_no_recipe_are_left_out(page: str) -> None:
    short = "shortened: 2 of 10 epochs, 40 of 45,000 training images"
    assert rows(page, "N8")[0][3:] == [f"50.00\u00a0% (n = 1; {short})", "–"]
    assert rows(page, "`n8`")[0][3:6] == ["2", "1", f"50.00\u00a0% ({short})"]
    assert rows(page, "`n7`")[0][5] == "60.00\u00a0% (shortened: 1,942 of 3,240 training images)"
    assert rows(page, "`n3`") == []
    assert rows(page, "N3")[0][3:] == ["–", "–"]
    assert rows(page, "N11")[0][3:] == ["not run: its weights have to be downloaded", "–"]


def test_epochs_are_those_that_were_trained(page: str) -> None:
    assert rows(page, "`n13-ours`")[0][3] == "head fitted"
    assert rows(page, "`n13-unfrozen`")[0][3] == "head fitted, then 4"
    assert rows(page, "`n2`")[0][3] == "7"


def test_all_recipes_as_written_stand_beside_the_write_up(page: str) -> None:
    both = "94.00\u00a0% (n = 1); `n2-normalized` 95.00\u00a0% (n = 1)"
    assert rows(page, "N2")[0][3:] == [both, "–"]


def test_every_system_has_a_row_and_every_comparison_its_verdicts(page: str) -> None:
    assert [rows(page, f"N{number}")[0][0] for number in range(1, 14)] == [f"N{number}" for number in range(1, 14)]
    assert "## mlp, cnn on made" in page
    assert "7 training images, 400 test images." in page
    assert rows(page, "mlp")[0][1] == "10"
    assert "- cnn is better than mlp (+" in page
    assert "/tmp" not in page


def test_earlier_results_stay_until_they_are_measured_again(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    images = {"source": str(tmp_path / "p.tar"), "data_dir": str(tmp_path)}
    for seed, correct in enumerate((190, 180)):
        write_recipe_run(first / str(seed), "n1", correct, data=images, seed=seed)
    write_recipe_run(first / "other", "n2", 150)
    before = draw_page(tmp_path, first)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert draw_page(tmp_path, empty) == before
    write_recipe_run(second / "1", "n1", 200, data=images, seed=1)
    after = draw_page(tmp_path, second)
    assert rows(after, "`n1`")[0][4:6] == ["2", f"97.50\u00a0% ± {100 * stdev((0.95, 1.0)):.2f}"]
    assert rows(after, "`n2`") == rows(before, "`n2`")
    assert str(tmp_path) not in (tmp_path / "recipes.json").read_text() + after

"""docs/results.md: every system of the mission beside what we measured, made from run folders and never typed.

    convscope recipe n1 --data-dir MNIST_FOLDER --out RUNS/n1-seed0      and so on
    python benchmarks/mission_table.py RUNS [--comparison FOLDER ...]

A run belongs to the recipe that it has every option of, but for what a shortened run may change; the table says what it
changed. What the table needs of each run is kept in results/recipes.json, so that not all recipes have to be run on one
machine: a run takes the place of the one with its recipe, images, epochs, split and seed, the others stay.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from convscope.config import RunConfig, config_from_json, config_to_json
from convscope.pages.text import bytes_text, count_text, percent_text, seconds_text
from convscope.results.run import mean_accuracy_of
from convscope.storage.files import read_json, write_json
from convscope.storage.run_folder import read_config
from convscope.writeups.recipes import RECIPES, shortened

OUT = Path(__file__).parents[1] / "docs" / "results.md"
KEPT = Path(__file__).parent / "results" / "recipes.json"
REPORTED = {
    "n1": "96.7 %",
    "n2": "95.4 to 95.7 %",
    "n3": "98.98 %",
    "n4": "99.17 %",
    "n5": "98.06 % (softmax twice)",
    "n6": "not finished",
    "n7": "no figure",
    "n8": "73.64 %",
    "n9": "73.64 %",
    "n10": "74.80 %",
    "n11": "curves only",
    "n12": "three predictions",
    "n13": "interrupted: too slow",
}
"""What the write-ups report, from the mission's table."""
MAY_DIFFER = {
    ("data", "source"), ("data", "data_dir"), ("data", "per_class"), ("data", "split_seed"), ("model", "weights"),
    ("train", "epochs"), ("train", "seed"),
}  # fmt: skip
FACTS = {
    "data": ("name", "fingerprint", "class_counts"),
    "hardware": ("name", "device", "cpu_cores", "platform", "threads"),
    "versions": ("torch",),
}
RESULTS = ("accuracy", "train_seconds", "peak_memory_bytes", "epochs")
COMPARED = ("model", "accuracy", "std", "n_seeds", "num_params", "macs", "train_seconds")
"""What is kept of a run's run.json and results.json, and of each network of a comparison."""
NONE = "–"
TO_DOWNLOAD = "not run: its weights have to be downloaded"


@dataclass(frozen=True)
class Run:
    """A finished run of a recipe."""

    recipe: str
    config: RunConfig
    facts: Mapping[str, Any]
    results: Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """The runs of one recipe that differ in nothing but the seeds of training and split."""

    recipe: str
    runs: tuple[Run, ...]

    @property
    def accuracy(self) -> float:
        return statistics.mean(run.results["accuracy"]["value"] for run in self.runs)

    @property
    def counts(self) -> dict[str, int]:
        """The number of images in each split."""
        return {split: sum(of) for split, of in self.runs[0].facts["data"]["class_counts"].items()}

    @property
    def shortened(self) -> list[str]:
        """What was made smaller than the recipe says."""
        return shortened(RECIPES[self.recipe], self.runs[0].config, self.counts["train"])

    @property
    def epochs(self) -> str:
        """What was trained, and for how many epochs."""
        return "; ".join(dict.fromkeys(epochs_text(run.config, run.results.get("epochs")) for run in self.runs))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", type=Path, nargs="+", help="folders that hold run folders")
    parser.add_argument("--comparison", type=Path, nargs="*", default=[], help="folders of `convscope compare`")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--kept", type=Path, default=KEPT, help="JSON file of what was measured before")
    options = parser.parse_args()
    kept = read_json(options.kept) if options.kept.exists() else {"runs": [], "comparisons": []}
    folders = [path.parent for place in (*options.runs, *options.comparison) for path in place.glob("*/results.json")]
    rows = group([*map(load_run, sorted(folders)), *map(run_from_json, kept["runs"])])
    comparisons = newest([*map(load_comparison, options.comparison), *kept["comparisons"]])
    runs = [run_to_json(run) for row in rows for run in row.runs]
    write_json(options.kept, {"runs": runs, "comparisons": comparisons})
    options.out.write_text(render(rows, comparisons))
    print(options.out)


# ---------------------------------------------------------------- runs


def load_run(folder: Path) -> Run | None:
    """Return what the table needs of a run folder; None if it is of no recipe."""
    config = read_config(folder)
    recipe = recipe_of(config)
    if recipe is None:
        return None
    facts, results = read_json(folder / "run.json"), read_json(folder / "results.json")
    data = replace(config.data, source=Path(config.data.source).name, data_dir=None)
    model = replace(config.model, weights=config.model.weights and Path(config.model.weights).name)
    return Run(
        recipe,
        replace(config, data=data, model=model),  # without the paths of this machine
        {part: {name: facts[part][name] for name in names} for part, names in FACTS.items()},
        {name: results.get(name) for name in RESULTS},
    )


def recipe_of(config: RunConfig) -> str | None:
    mine = fixed_options(config)
    return next((name for name, entry in RECIPES.items() if fixed_options(entry.config) == mine), None)


def run_to_json(run: Run) -> dict[str, Any]:
    return {"config": config_to_json(run.config), "facts": run.facts, "results": run.results}


def run_from_json(tree: Mapping[str, Any]) -> Run | None:
    config = config_from_json(tree["config"])
    recipe = recipe_of(config)
    return None if recipe is None else Run(recipe, config, tree["facts"], tree["results"])


def epochs_text(config: RunConfig, trained: int | None) -> str:
    """Return how many epochs were trained: none of a head that is fitted on the features of a frozen network.

    Args:
        trained: the last epoch, which --patience may have made an earlier one; None if the run did not record it.
    """
    start, last = config.train.unfreeze_at, trained or config.train.epochs
    if not config.frozen or start == 1:
        return str(last)
    return "head fitted" if start is None else f"head fitted, then {last - start + 1}"


def fixed_options(config: RunConfig) -> dict[str, Any]:
    """Return what a run of a recipe may not change."""
    tree = config_to_json(config)
    tree["compute"] = {"precision": config.compute.precision}  # the rest only says how to compute
    return {
        f"{part}.{name}": v for part, vs in tree.items() for name, v in vs.items() if (part, name) not in MAY_DIFFER
    }


def group(runs: Iterable[Run | None]) -> list[Row]:
    """Return the rows in the order of RECIPES, the longer runs first.

    Runs of no recipe are left out, and so are seeds that are there already: they repeat a run, or are an older one.
    """
    found: dict[str, dict[Any, dict[Any, Run]]] = {}
    for run in runs:
        if run is not None:
            data, train = run.config.data, run.config.train
            images = (run.facts["data"]["fingerprint"], train.epochs)
            found.setdefault(run.recipe, {}).setdefault(images, {}).setdefault((data.split_seed, train.seed), run)
    rows = [Row(name, tuple(of_key.values())) for name in RECIPES for of_key in found.get(name, {}).values()]
    order = list(RECIPES)
    return sorted(rows, key=lambda row: (order.index(row.recipe), -row.runs[0].config.train.epochs))


def load_comparison(folder: Path) -> dict[str, Any]:
    """Return what the page says of a comparison."""
    comparison = read_json(folder / "comparison.json")
    counts = read_json(first_run(comparison["models"][0], folder) / "run.json")["data"]["class_counts"]
    return {
        "data": comparison["data"],
        "split": comparison["split"],
        "images": comparison["n_images"],
        "training_images": sum(counts["train"]),
        "models": [compared(model, folder) for model in comparison["models"]],
        "verdicts": [pair["sentence"] for pair in comparison["pairs"]],
    }


def compared(model: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return what the page says of a network in a comparison."""
    run = first_run(model, folder)
    epochs = epochs_text(read_config(run), read_json(run / "results.json").get("epochs"))
    return {name: model[name] for name in COMPARED} | {"epochs": epochs}


def first_run(model: Mapping[str, Any], folder: Path) -> Path:
    recorded = Path(model["runs"][0])
    return recorded if recorded.is_dir() else folder / recorded.name  # moved together


def newest(comparisons: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the comparisons without those that an earlier one of the same networks and data repeats."""
    found: dict[Any, Mapping[str, Any]] = {}
    for comparison in comparisons:
        found.setdefault((comparison["data"], *(model["model"] for model in comparison["models"])), comparison)
    return list(found.values())


# ---------------------------------------------------------------- the page


def render(rows: Sequence[Row], comparisons: Iterable[Mapping[str, Any]]) -> str:
    lines = [
        "# What the systems reach",
        "",
        "Made by benchmarks/mission_table.py from run folders. The weights of the best epoch on validation data are",
        "measured on the test split, which chooses nothing. ± is the standard deviation over n seeds, or n splits",
        "where that is said; an interval is Wilson's, 95 %, for other test images. Where a recipe holds out no",
        "validation images, the weights are those of the last epoch. Shortened runs say so, and their accuracy is no",
        "match for the full recipe's. A head that is fitted on features of a frozen network takes no epochs.",
        "",
        "## Beside the write-ups",
        "",
        *systems_table(rows),
        "",
        "## Every recipe that was run",
        "",
        *recipes_table(rows),
        "",
        *hardware_lines(rows),
        *(line for comparison in comparisons for line in comparison_lines(comparison)),
    ]
    return "\n".join(lines).rstrip() + "\n"


def systems_table(rows: Sequence[Row]) -> list[str]:
    cells = []
    for name, reported in REPORTED.items():
        recipes = [recipe for recipe in RECIPES if recipe == name or recipe.startswith(f"{name}-")]
        longest = [next((row for row in rows if row.recipe == recipe), None) for recipe in recipes]
        found = [row for row in longest if row is not None]
        as_written = [system_cell(row) for row in found if RECIPES[row.recipe].as_written]
        best = max((row for row in found if not RECIPES[row.recipe].as_written), key=rank, default=None)
        model = RECIPES[name].config.model
        missing = TO_DOWNLOAD if model.pretrained else NONE
        ours = NONE if best is None else system_cell(best)
        cells.append((name.upper(), model.name, reported, "; ".join(as_written) or missing, ours))
    return table(("", "network", "write-up", "as written", "ours, best"), cells)


def rank(row: Row) -> tuple[bool, float]:
    """Return what makes one row better than another: a whole run, then accuracy."""
    return not row.shortened, row.accuracy


def system_cell(row: Row) -> str:
    recipe = "" if row.recipe in REPORTED else f"`{row.recipe}` "
    short = f"; shortened: {', '.join(row.shortened)}" if row.shortened else ""
    return f"{recipe}{accuracy_text(row)} (n = {count_of_runs(row)}{short})"


def recipes_table(rows: Sequence[Row]) -> list[str]:
    cells = []
    for row in rows:
        results = [run.results for run in row.runs]
        images = min(r["accuracy"]["n"] for r in results)
        mean = mean_accuracy_of(correct=[round(r["accuracy"]["value"] * images) for r in results], n=images)
        seconds = [r["train_seconds"] for r in results if r["train_seconds"] is not None]
        memory = max((r["peak_memory_bytes"] for r in results if r["peak_memory_bytes"] is not None), default=None)
        cells.append(
            (
                f"`{row.recipe}`",
                str(row.runs[0].facts["data"]["name"]),
                " / ".join(f"{row.counts[split]:,}" for split in ("train", "validation", "test")),
                row.epochs,
                count_of_runs(row),
                accuracy_text(row) + (f" (shortened: {', '.join(row.shortened)})" if row.shortened else ""),
                f"{percent_text(mean.low, 2)} to {percent_text(mean.high, 2)}",
                seconds_text(min(seconds, default=None)),
                bytes_text(memory),
            )
        )
    columns = (
        "recipe", "data", "train / validation / test", "epochs", "n", "test accuracy", "interval", "fastest training",
        "most memory",
    )  # fmt: skip
    return table(columns, cells)


def count_of_runs(row: Row) -> str:
    splits = {run.config.data.split_seed for run in row.runs}
    return f"{len(row.runs)} splits" if len(splits) > 1 else str(len(row.runs))


def accuracy_text(row: Row) -> str:
    values = [run.results["accuracy"]["value"] for run in row.runs]
    spread = f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{percent_text(row.accuracy, 2)}{spread}"


def hardware_lines(rows: Sequence[Row]) -> list[str]:
    """Return what the runs were computed on, each machine once."""
    seen = {}
    for run in (run for row in rows for run in row.runs):
        hardware, versions = run.facts["hardware"], run.facts["versions"]
        name = hardware["name"] or hardware["device"]
        seen[f"{name}, {hardware['cpu_cores']} cores, {hardware['platform']}, torch {versions['torch']}"] = None
    threads = sorted({run.facts["hardware"]["threads"] for row in rows for run in row.runs})
    return [
        f"Computed on {'; '.join(seen)}; threads: {', '.join(map(str, threads))}. Other programs ran meanwhile, and",
        "some runs were paused for minutes: times are upper bounds, and no measurements of speed.",
        "",
    ]


def comparison_lines(comparison: Mapping[str, Any]) -> list[str]:
    models = comparison["models"]
    rows = [
        (
            model["model"],
            model["epochs"],
            percent_text(model["accuracy"]["value"], 2),
            NONE if model["std"] is None else f"{100 * model['std']:.2f}",
            str(model["n_seeds"]),
            count_text(model["num_params"]),
            count_text(model["macs"]),
            seconds_text(model["train_seconds"]),
        )
        for model in models
    ]
    return [
        f"## {', '.join(model['model'] for model in models)} on {comparison['data']}",
        "",
        f"{comparison['training_images']:,} training images, {comparison['images']:,} {comparison['split']} images.",
        "",
        *table(("network", "epochs", "accuracy", "std", "seeds", "parameters", "multiply-adds", "training"), rows),
        "",
        *(f"- {verdict}" for verdict in comparison["verdicts"]),
        "",
    ]


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return a Markdown table; a bar in a cell is escaped."""
    lines = [columns, ["---"] * len(columns), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


if __name__ == "__main__":
    sys.exit(main())

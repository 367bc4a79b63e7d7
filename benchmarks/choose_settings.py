"""Compare candidate settings of a recipe on validation data alone, over several splits; test images are not read.

python benchmarks/choose_settings.py demo
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from convscope import run_config
from convscope.writeups.recipes import RECIPES

CANDIDATES: dict[str, tuple[tuple[float, float, float], tuple[Mapping[str, Any], ...]]] = {
    "demo": (
        (75, 25, 0),
        (
            {"epochs": 10, "lr": 0.005, "augment": ("rotate", "zoom")},
            {"epochs": 16, "lr": 0.005, "augment": ("rotate", "zoom")},
            {"epochs": 16, "lr": 0.01, "augment": ("rotate", "zoom")},
            {"epochs": 16, "lr": 0.003, "augment": ("rotate", "zoom")},
            {"epochs": 16, "lr": 0.005, "augment": ("crop",)},
            {"epochs": 16, "lr": 0.005, "augment": ("rotate", "zoom", "crop")},
            {"epochs": 24, "lr": 0.005, "augment": ("rotate", "zoom", "crop")},
            {"epochs": 16, "lr": 0.005, "augment": ("rotate", "zoom"), "label_smoothing": 0.1},
        ),
    ),
    "mnist-99": (
        (85, 15, 0),
        (
            {"lr": 0.005},
            {"lr": 0.01},
            {"lr": 0.02},
            {"lr": 0.01, "batch_size": 128},
            {"lr": 0.01, "label_smoothing": 0.1},
        ),
    ),
    "cifar-75": (
        (90, 10, 0),
        (
            {"epochs": 1},
            {"epochs": 1, "lr": 0.06},
            {"epochs": 1, "batch_size": 125},
            {"epochs": 1, "weight_decay": 2.0, "label_smoothing": 0.1},
            {"epochs": 1, "augment": ("flip", "crop")},
            {"epochs": 1, "augment": ("flip", "crop"), "weight_decay": 0.0},
            {"epochs": 1, "augment": ("flip", "crop"), "whiten": False},
            {"epochs": 2},
        ),
    ),
}
"""Recipe -> the split to choose on, and the fields of TrainConfig that each candidate changes."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe", choices=CANDIDATES)
    parser.add_argument("--data-dir")
    parser.add_argument("--data", help="the same images as an archive or folder")
    parser.add_argument("--seeds", type=int, default=4)
    options = parser.parse_args()
    split, candidates = CANDIDATES[options.recipe]
    base = RECIPES[options.recipe].config
    for fields in candidates:
        accuracies, losses = [], []
        for seed in range(options.seeds):
            config = replace(
                base,
                data=replace(
                    base.data,
                    source=options.data or base.data.source,
                    data_dir=options.data_dir,
                    split=split,
                    split_seed=seed,
                ),
                train=replace(base.train, seed=seed, **fields),
            )
            with tempfile.TemporaryDirectory() as folder:
                run = Path(folder) / "run"
                run_config(config, out=run, report=False)
                last = json.loads((run / "history.jsonl").read_text().splitlines()[-1])
            accuracies.append(last["validation_accuracy"])
            losses.append(last["validation_loss"])
        spread = statistics.stdev(accuracies)
        print(
            f"{statistics.mean(accuracies):.2%} ± {spread:.2%}  loss {statistics.mean(losses):.4f}  {fields}",
            flush=True,
        )


if __name__ == "__main__":
    main()

"""P3, P4, P5: a whole process, from the shell prompt to the evaluated run with its report, at a promised accuracy.

python benchmarks/time_to_accuracy.py mnist-99 --data-dir MNIST_FOLDER
python benchmarks/time_to_accuracy.py cifar-75 --data cifar10.zip

What a frozen network made of the images is kept: the first run of cifar-90 with an empty cache takes all of the time.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from harness import convscope, mean_and_deviation, run_process, summarize, write_results

PROMISED = {"mnist-99": "99 %", "mnist-99.5": "99.5 %", "cifar-75": "75 %", "cifar-90": "90 %"}
"""Recipe -> test accuracy that the mean of all seeds reaches."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe", choices=PROMISED)
    parser.add_argument("--data-dir", type=Path, help="folder with the files of the recipe's data set")
    parser.add_argument("--data", type=Path, help="the same images as an archive or folder")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    source = [("--data-dir", options.data_dir), ("--data", options.data)]
    where = [word for name, path in source if path is not None for word in (name, path)]
    results: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            command = convscope("recipe", options.recipe, *where, "--seed", str(seed), "--json")
            result, seconds = run_process([*command, "--out", str(Path(folder) / "run")])
        results.append(result | {"whole_seconds": seconds})
        print(seed, f"{seconds:.1f} s, {result['train_seconds']:.1f} s, {result['accuracy']['value']:.2%}", flush=True)
    accuracies = [result["accuracy"]["value"] for result in results]
    shares = [share for result in results if (share := result["fraction_of_peak_flops"]) is not None]
    write_results(
        options.recipe.replace("-", "_").replace(".", "_"),
        f"{PROMISED[options.recipe]} on {options.recipe.split('-')[0].upper()}: recipe {options.recipe}",
        "Wall time of the whole process: interpreter, imports, reading the images (decoded before), split, training, "
        "validation, test, checkpoints, model file, hardware measurement and report. The length is fixed beforehand. "
        "Medians (range); the last column relates operations of training and validation per second to a matrix product "
        "in the same number format, and is empty where what a frozen network made of the images is computed once.",
        ("data", "n seeds", "epochs", "whole process", "training alone", "test accuracy", "lowest", "of peak"),
        [
            [
                results[0]["data"],
                str(len(results)),
                str(results[0]["epochs"]),
                _range([result["whole_seconds"] for result in results]),
                _range([result["train_seconds"] for result in results]),
                mean_and_deviation(accuracies),
                f"{min(accuracies):.2%}",
                f"{statistics.median(shares):.0%}" if shares else "",
            ]
        ],
        {"mean": statistics.mean(accuracies), "runs": [{key: result[key] for key in KEPT} for result in results]},
    )


KEPT = (
    "data",
    "seed",
    "accuracy",
    "epochs",
    "num_params",
    "macs",
    "whole_seconds",
    "train_seconds",
    "fraction_of_peak_flops",
)


def _range(seconds: list[float]) -> str:
    found = summarize(seconds)
    return f"{found['median']:.1f} s ({found['min']:.1f} to {found['max']:.1f})"


if __name__ == "__main__":
    main()

"""P3: a whole process, from the shell prompt to the evaluated run with its report, at 99.0 % on MNIST."""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from harness import convscope, mean_and_deviation, run_process, summarize, write_results

SEEDS = 5


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-dir", type=Path, required=True)
    options = parser.parse_args()
    whole, training, accuracies = [], [], []
    for seed in range(SEEDS):
        with tempfile.TemporaryDirectory() as folder:
            command = convscope("recipe", "mnist-99", "--data-dir", options.data_dir, "--seed", str(seed), "--json")
            result, seconds = run_process([*command, "--out", str(Path(folder) / "run")])
        whole.append(seconds)
        training.append(result["train_seconds"])
        accuracies.append(result["accuracy"]["value"])
        print(seed, f"{seconds:.2f} s, training {training[-1]:.2f} s, {accuracies[-1]:.2%}", flush=True)
    process, loop = summarize(whole), summarize(training)
    write_results(
        "mnist_99",
        "MNIST to 99 %: recipe mnist-99, one epoch of fixed length",
        "Wall time of the whole process: interpreter, imports, reading the files, split, training on 51,000 pictures, "
        "validation on 9,000, test on 10,000, checkpoint, hardware measurement and report. Medians (range).",
        ("n seeds", "whole process", "training alone", "test accuracy", "lowest"),
        [
            [
                str(SEEDS),
                f"{process['median']:.1f} s ({process['min']:.1f} to {process['max']:.1f})",
                f"{loop['median']:.1f} s ({loop['min']:.1f} to {loop['max']:.1f})",
                mean_and_deviation(accuracies),
                f"{min(accuracies):.2%}",
            ]
        ],
        {
            "whole_seconds": whole,
            "train_seconds": training,
            "accuracies": accuracies,
            "mean": statistics.mean(accuracies),
        },
    )


if __name__ == "__main__":
    main()

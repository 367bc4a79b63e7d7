"""Test accuracy of the MNIST recipes n1 to n5, as written and ours."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from harness import convscope, mean_and_deviation, run_process, write_results

REPORTED = {"n1": "96.7 %", "n2": "95.4 to 95.7 %", "n3": "98.98 %", "n4": "99.17 %", "n5": "98.06 %"}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--recipes", default="n1-ours,n2-ours,n3-ours,n4-ours,n5-ours")
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    rows, raw = [], {}
    for name in options.recipes.split(","):
        results = []
        for seed in range(options.seeds):
            with tempfile.TemporaryDirectory() as folder:
                command = convscope("recipe", name, "--data-dir", options.data_dir, "--seed", str(seed), "--json")
                result, _ = run_process([*command, "--no-report", "--out", str(Path(folder) / "run")])
            results.append(result)
            print(name, seed, result["accuracy"]["value"], result["train_seconds"], flush=True)
        accuracies = [result["accuracy"]["value"] for result in results]
        seconds = [result["train_seconds"] for result in results]
        rows.append(
            [
                name,
                results[0]["model"],
                f"{results[0]['num_params']:,}",
                str(results[0]["epochs"]),
                REPORTED[name.removesuffix("-ours")],
                mean_and_deviation(accuracies),
                str(len(results)),
                f"{sum(seconds) / len(seconds):.0f} s",
            ]
        )
        raw[name] = {"accuracies": accuracies, "train_seconds": seconds}
    write_results(
        "mnist_recipes",
        "MNIST: the recipes n1 to n5",
        "Trained on 54,000 pictures, the best epoch chosen on 6,000 others, measured on the 10,000 test pictures.",
        ("recipe", "network", "parameters", "epochs", "reported", "measured", "n seeds", "training"),
        rows,
        {"results": raw},
    )


if __name__ == "__main__":
    main()

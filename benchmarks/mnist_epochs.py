"""P1 and P2: one MNIST epoch of N1 and N3 at batch 64 with Adam, ours against the usual script, in turn."""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from harness import convscope, mean_and_deviation, peer, run_process, summarize, write_results

ROUNDS = {"cnn": 3, "mlp": 5}
EPOCHS = {"mlp": 3, "cnn": 1}
GATE = 0.005
"""Our mean test accuracy may be lower than the script's by this much: noise of a single epoch."""


def ours(model: str, data_dir: Path, seed: int) -> tuple[list[float], float]:
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = convscope("train", "mnist", "--data-dir", data_dir, "--model", model, "--epochs", str(EPOCHS[model]))
        command += ["--batch-size", "64", "--optimizer", "adam", "--lr", "0.001", "--schedule", "constant"]
        command += ["--split", "100/0/0", "--seed", str(seed), "--no-report", "--json", "--out", str(run)]
        result, _ = run_process(command)
        seconds = [json.loads(line)["seconds"] for line in (run / "history.jsonl").read_text().splitlines()]
        return seconds, result["accuracy"]["value"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--models", default="mlp,cnn")
    options = parser.parse_args()
    rows, raw = [], {}
    for model in options.models.split(","):
        times: dict[str, list[float]] = {"script": [], "convscope": []}
        accuracies: dict[str, list[float]] = {"script": [], "convscope": []}
        for seed in range(ROUNDS[model]):
            arguments = ["--model", model, "--data-dir", options.data_dir, "--seed", str(seed)]
            result, _ = run_process(peer("mnist_script.py", *arguments, "--epochs", str(EPOCHS[model])))
            times["script"] += result["epoch_seconds"]
            accuracies["script"].append(result["accuracy"])
            seconds, accuracy = ours(model, options.data_dir, seed)
            times["convscope"] += seconds
            accuracies["convscope"].append(accuracy)
            print(model, seed, result["epoch_seconds"], seconds, flush=True)
        script, mine = (summarize(times[side]) for side in ("script", "convscope"))
        gap = statistics.mean(accuracies["convscope"]) - statistics.mean(accuracies["script"])
        rows.append(
            [
                model,
                f"{script['median']:.2f} s ({script['min']:.2f} to {script['max']:.2f})",
                f"{mine['median']:.2f} s ({mine['min']:.2f} to {mine['max']:.2f})",
                f"{script['median'] / mine['median']:.1f}x",
                f"{script['n']}",
                mean_and_deviation(accuracies["script"]),
                mean_and_deviation(accuracies["convscope"]) + ("" if gap > -GATE else " (GATE MISSED)"),
            ]
        )
        raw[model] = {"seconds": times, "accuracies": accuracies, "ratio": script["median"] / mine["median"]}
    write_results(
        "mnist_epochs",
        "One epoch of MNIST (60,000 images), batch 64, Adam 0.001",
        "Fresh processes in turn. Seconds of an epoch's loop: reading batches, forward, backward, weight change; "
        "imports, loading of the files, evaluation and checkpoints are left out on both sides. Medians (range); "
        "accuracy: of the test split after three epochs (mlp) and one (cnn), mean and standard deviation over seeds.",
        ("network", "script", "convscope", "ratio", "n epochs", "accuracy, script", "accuracy, convscope"),
        rows,
        {"results": raw},
    )


if __name__ == "__main__":
    main()

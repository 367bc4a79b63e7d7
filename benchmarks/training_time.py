"""The time of an epoch, predicted from a few steps against that of a real run; and as estimated from operations."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from pathlib import Path

import torch
from harness import convscope, run_process, write_results

from convscope import budget
from convscope.config import ModelConfig, TrainConfig
from convscope.memory.predict import predict_step
from convscope.memory.speed import measure_speed
from convscope.models import build_shapes, find_model
from convscope.models.saved import channels_last

GRAY = (1, 28, 28)
IMAGES = 3500
"""The training split of mnist5k."""
EPOCHS = 2
CONFIGURATIONS = (
    ("mlp", 64),
    ("cnn-small", 64),
    ("cnn", 64),
    ("cnn", 256),
    ("lenet5", 64),
    ("auto", 256),
)


def main() -> None:
    rows, raw = [], []
    speed = measure_speed(torch.device("cpu"), None)
    for name, batch_size in CONFIGURATIONS:
        train = TrainConfig(**(dict(find_model(name).train) | {"batch_size": batch_size, "epochs": EPOCHS}))  # type: ignore[arg-type]
        found = budget(name, input_shape=GRAY, batch_size=batch_size, num_classes=10, images=IMAGES, epochs=EPOCHS)
        assert found.duration is not None
        network = channels_last(build_shapes(ModelConfig(name=name), GRAY, 10))
        work = predict_step(network, GRAY, batch_size=batch_size, train=train).work
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            options = ("--model", name, "--batch-size", str(batch_size), "--epochs", str(EPOCHS), "--no-report")
            run_process(convscope("train", "mnist5k", *options, "--out", run, "--json"))
            history = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
        entry = {
            "model": name,
            "batch_size": batch_size,
            "predicted_epoch_seconds": found.duration.epoch_seconds,
            "estimated_epoch_seconds": speed.seconds(work) * IMAGES / batch_size,
            "measured_epoch_seconds": history[-1]["seconds"],
        }
        raw.append(entry)
        measured = entry["measured_epoch_seconds"]
        rows.append(
            [
                f"{name}, {batch_size}",
                f"{measured:.2f}",
                f"{entry['predicted_epoch_seconds']:.2f}",
                f"{entry['predicted_epoch_seconds'] / measured:.2f}",
                f"{entry['estimated_epoch_seconds']:.2f}",
                f"{entry['estimated_epoch_seconds'] / measured:.2f}",
            ]
        )
        print(rows[-1], file=sys.stderr, flush=True)
    for label, of in (("median", statistics.median), ("largest", max)):
        ratios = [
            of([max(e[key] / e["measured_epoch_seconds"], e["measured_epoch_seconds"] / e[key]) for e in raw])
            for key in ("predicted_epoch_seconds", "estimated_epoch_seconds")
        ]
        rows.append([f"{label} factor, either way", "", "", f"{ratios[0]:.2f}", "", f"{ratios[1]:.2f}"])
    write_results(
        "training_time",
        f"Time of an epoch of {IMAGES:,} digits, predicted against measured: {len(raw)} configurations",
        "Measured: the second epoch of a run, validation on 750 images included. From steps: the median of those "
        "timed for a second in another process. From operations: their arithmetic and bytes at rates measured once on "
        "this machine, nothing of the network run. One run each; the ratio is predicted / measured.",
        ("network, batch", "measured, s", "from steps, s", "ratio", "from operations, s", "ratio"),
        rows,
        {"configurations": raw},
    )


if __name__ == "__main__":
    main()

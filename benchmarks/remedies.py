"""What remedies cost in time and whether `--fit` keeps its word: estimated against steps and runs that are measured.

python benchmarks/remedies.py --photos FOLDER      class folders of a few photos
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from harness import write_results

import convscope
from convscope.config import ComputeConfig, ModelConfig, TrainConfig
from convscope.memory.remedies import Subject, price_remedies
from convscope.memory.speed import measure_speed
from convscope.models import build_shapes, find_model
from convscope.models.saved import channels_last
from convscope.run.measured_step import measure_step

CLASSES = 5
NETWORKS = (("cifar-base", 32, 64), ("resnet18", 112, 32), ("mobilenetv2_100", 112, 32))
FITS = (("resnet18", 224, 32, "1300MiB"), ("cifar-residual", 32, 128, "1200MiB"), ("vgg11", 112, 16, "3500MiB"))
MIB = 2**20
CHILD = """
import sys
from pathlib import Path
import convscope.cli
from convscope.device import peak_memory_bytes
import torch
try:
    convscope.cli.main()
except SystemExit as ended:
    assert not ended.code, ended.code
Path(sys.argv[sys.argv.index("--out") + 1], "peak").write_text(str(peak_memory_bytes(torch.device("cpu"))))
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--photos", type=Path, required=True)
    options = parser.parse_args()
    priced = [entry for network in NETWORKS for entry in _price(*network)]
    fitted = [_fit(*row, options.photos) for row in FITS]
    rows = []
    for e in priced:
        error = f"{e['estimated'] / e['measured'] - 1:+.0%}"
        rows.append([e["network"], e["remedy"], f"x{e['estimated']:.2f}", f"x{e['measured']:.2f}", error])
    factors = [max(e["estimated"] / e["measured"], e["measured"] / e["estimated"]) for e in priced]
    rows.append(["median factor, either way", "", "", "", f"{statistics.median(factors):.2f}"])
    rows.append(["largest factor, either way", "", "", "", f"{max(factors):.2f}"])
    for f in fitted:
        asked = f"--fit {f['limit']}: {f['options'] or 'none'}"
        found = f"{f['measured_mib']:,.0f} MiB", "stayed below" if f["held"] else "PASSED IT"
        rows.append([f["network"], asked, "", *found])
    kept = sum(f["held"] for f in fitted)
    write_results(
        "remedies",
        f"Remedies: {len(priced)} time factors, and {kept} of {len(fitted)} runs below a limit",
        "Time of training on the same images, relative to without the remedy. Estimated: from operations and bytes "
        "at rates measured once. Measured: medians of the steps of a second, in a process for each. Below: the options "
        "that `convscope budget --fit` names, given to `convscope train` on a few photos, one epoch; VmHWM of the "
        "process.",
        ("network", "remedy", "estimated", "measured", "off"),
        rows,
        {"remedies": priced, "fits": fitted},
    )


def _price(name: str, side: int, batch_size: int) -> list[dict[str, Any]]:
    shape, cpu = (3, side, side), torch.device("cpu")
    train = TrainConfig(**(dict(find_model(name).train) | {"batch_size": batch_size}))  # type: ignore[arg-type]

    def build(name: str, shape: tuple[int, int, int]) -> torch.nn.Module:
        network: torch.nn.Module = channels_last(build_shapes(ModelConfig(name=name), shape, CLASSES))
        return network

    def seconds(train: TrainConfig, side: int = side, **how: Any) -> float:
        """Return the time of a batch of `batch_size` images."""
        found = measure_step(
            ModelConfig(name=name), (3, side, side), CLASSES, batch_size=train.batch_size, train=train, **how
        )
        return statistics.median(found.batch_seconds) * batch_size / train.batch_size

    subject = Subject(build(name, shape), shape, train, ComputeConfig(), cpu, measure_speed(cpu, None))
    estimated = {r.name: r.time_factor for r in price_remedies(subject, name=name, build=build)}
    part, smaller = batch_size // 2, round(0.75 * side / 8) * 8
    measured = {
        "micro-batches": lambda: seconds(replace(train, batch_size=part, accumulate=2)),
        "activation checkpointing": lambda: seconds(train, compute=ComputeConfig(checkpoint_activations=True)),
        f"images of {smaller}x{smaller}": lambda: seconds(train, side=smaller),
        "all but the last layer frozen": lambda: seconds(train, frozen=True),
    }
    plain, entries = seconds(train), []
    for remedy, measure in measured.items():
        factor = estimated.get(remedy)
        if factor is not None:
            entries.append({"network": name, "remedy": remedy, "estimated": factor, "measured": measure() / plain})
            print(entries[-1], file=sys.stderr, flush=True)
    return entries


def _fit(name: str, side: int, batch_size: int, limit: str, photos: Path) -> dict[str, Any]:
    limit_bytes = int(limit.removesuffix("MiB")) * MIB
    images = sum(1 for path in photos.rglob("*") if path.is_file())
    asked: dict[str, Any] = {"input_shape": (3, side, side), "batch_size": batch_size, "num_classes": CLASSES}
    fit = convscope.budget(name, fit=limit_bytes, images=images, **asked).fit
    assert fit is not None
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "run")
        options = ["--batch-size", str(batch_size), "--memory", limit]
        command = ["train", str(photos), "--model", name, "--image-size", str(side), "--epochs", "1", "--out", out]
        command += options
        subprocess.run([sys.executable, "-c", CHILD, *command, "--json"], check=True, capture_output=True)
        peak = int(Path(out, "peak").read_text())
    entry = {"network": name, "limit": limit, "options": fit.options, "images": images}
    entry |= {"measured_mib": peak / MIB, "held": peak <= limit_bytes}
    print(entry, file=sys.stderr, flush=True)
    return entry


if __name__ == "__main__":
    main()

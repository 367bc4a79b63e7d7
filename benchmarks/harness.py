"""What every benchmark shares: running both sides in turn, summarizing, and writing a result table."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from convscope.device import describe_hardware, measure_peak_flops

RESULTS = Path(__file__).parent / "results"


def run_process(command: Sequence[str]) -> tuple[dict[str, Any], float]:
    """Run a command that prints one JSON object as its last line; return that and the wall time of the process."""
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1]), seconds


def convscope(*arguments: str | Path) -> list[str]:
    """Return the command line of our side."""
    return [sys.executable, "-m", "convscope", *map(str, arguments)]


def peer(name: str, *arguments: str | Path) -> list[str]:
    """Return the command line of a script in peers/."""
    return [sys.executable, str(Path(__file__).parent / "peers" / name), *map(str, arguments)]


def summarize(values: Sequence[float]) -> dict[str, Any]:
    """Return n, median, minimum and maximum."""
    return {"n": len(values), "median": statistics.median(values), "min": min(values), "max": max(values)}


def mean_and_deviation(values: Sequence[float]) -> str:
    """Return mean and standard deviation of accuracies, in per cent; of one value there is no deviation."""
    if len(values) == 1:
        return f"{values[0]:.2%}"
    return f"{statistics.mean(values):.2%} ± {statistics.stdev(values):.2%}"


def environment() -> dict[str, Any]:
    """Return versions, hardware, the measured peak rate, and how busy the machine was."""
    device = torch.device("cpu")
    hardware = describe_hardware(device)
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": hardware.name,
        "cpu_cores": hardware.cpu_cores,
        "platform": hardware.platform,
        "peak_gflops": round(measure_peak_flops(device) / 1e9, 1),
        "load_average": os.getloadavg(),
        "versions": {name: version(name) for name in ("convscope", "torch", "torchvision", "numpy")},
    }


def write_results(
    name: str, title: str, method: str, columns: Sequence[str], rows: Sequence[Sequence[str]], raw: Mapping[str, Any]
) -> None:
    """Write results/NAME.json with everything measured and results/NAME.md with the table."""
    RESULTS.mkdir(exist_ok=True)
    where = environment()
    tree = {"title": title, "method": method, "environment": where, **raw}
    (RESULTS / f"{name}.json").write_text(json.dumps(tree, indent=2) + "\n")
    versions = ", ".join(f"{package} {number}" for package, number in where["versions"].items())
    lines = [
        f"# {title}",
        "",
        method,
        "",
        f"{where['date']}; {where['cpu']}, {where['cpu_cores']} cores, {where['platform']}; "
        f"matrix product or convolution {where['peak_gflops']} GFLOP/s; {versions}.",
        "",
        "| " + " | ".join(columns) + " |",
        "|" + "---|" * len(columns),
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
    ]
    (RESULTS / f"{name}.md").write_text("\n".join(lines))
    print("\n".join(lines))

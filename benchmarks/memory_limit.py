"""`train --memory` on every network of the write-ups: does the whole process stay below its limit?

Each run is a process of its own, with few images and one epoch. The limit is the smallest that the refusal of 1 MiB
names, and MARGIN more. Measured is VmHWM, the most resident memory of the process from its start to its end, which
includes reading the images, the model file and the report.

    python benchmarks/memory_limit.py --flowers ../shared/data/flowers-227px.zip [--only resnet18]
"""

from __future__ import annotations

import argparse
import io
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness import write_results

MARGIN = 8
"""MiB: two processes that do the same differ by a few."""
PER_CLASS = 40
MNIST = {"data": "mnist5k", "per_class": 100}
ROWS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("N1", MNIST | {"model": "mlp"}),
    ("N2", MNIST | {"model": "cnn-small", "batch_size": 256}),
    ("N3", MNIST | {"model": "cnn", "batch_size": 256}),
    ("N4", MNIST | {"model": "cnn-dropout", "batch_size": 256}),
    ("N5", MNIST | {"model": "lenet5", "batch_size": 256}),
    ("N6", {"model": "alexnet-2012", "image_size": 224, "batch_size": 32, "optimizer": "sgd"}),
    ("N7", {"model": "cats-cnn", "image_size": 200, "gray": True, "batch_size": 32}),
    ("N8", {"model": "cifar-base", "image_size": 32, "batch_size": 64}),
    ("N9", {"model": "cifar-inception", "image_size": 32, "batch_size": 64}),
    ("N10", {"model": "cifar-residual", "image_size": 32, "batch_size": 64}),
    ("N11", {"model": "vgg16", "image_size": 200, "batch_size": 8, "optimizer": "sgd"}),
    ("N11 frozen", {"model": "vgg16", "image_size": 200, "freeze": True}),
    ("N12 frozen", {"model": "inception_v3", "image_size": 299, "freeze": True}),
    ("N13", {"model": "mobilenetv2_100", "image_size": 224, "batch_size": 16}),
    ("N14", {"model": "resnet18", "image_size": 224, "batch_size": 16}),
)
CHILD = """
import json, sys
from pathlib import Path
import convscope
order = json.loads(sys.argv[1])
try:
    convscope.train(order.pop("data"), **order)
except convscope.errors.UsageError as error:
    print(json.dumps({"refused": str(error)}))
else:
    status = Path("/proc/self/status").read_text()
    peak = 1024 * int(status.split("VmHWM:")[1].split()[0])
    print(json.dumps({"peak_bytes": peak, "plan": json.loads(Path(order["out"], "plan.json").read_text())}))
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--flowers", type=Path, required=True, help="A zip of class folders of photos.")
    parser.add_argument("--only", help="Rows whose name or network contains this.")
    parser.add_argument(
        "--half", action="store_true", help="Also run without a limit, and with half of what that took."
    )
    options = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        photos = _few_photos(options.flowers, Path(folder) / "photos")
        for name, settings in ROWS:
            if options.only and options.only not in f"{name} {settings['model']}":
                continue
            order = {"data": str(photos), "epochs": 1} | dict(settings)
            for entry in _measure(order, Path(folder), half=options.half):
                found.append({"row": name, "settings": dict(settings)} | entry)
                print(json.dumps(found[-1]), flush=True)
    if not options.only:
        _write(found)


def _measure(order: Mapping[str, Any], folder: Path, *, half: bool) -> list[dict[str, Any]]:
    """Return what the runs of one row took; those with half of the memory only where that is possible."""
    refusal = _run(order, folder / "refused", "1MiB")["refused"]
    match = re.search(r"--memory (\d+)MiB", refusal)
    if match is None:
        sys.exit(refusal)
    smallest = int(match[1])
    limits: list[int | None] = [smallest + MARGIN]
    entries = []
    if half:
        free = _run(order, folder / "free", None)
        entries.append(_entry(free, None, smallest))
        limits = [*limits, free["peak_bytes"] // 2**21] if free["peak_bytes"] // 2**21 > smallest else limits
    for limit in limits:
        entries.append(_entry(_run(order, folder / f"at-{limit}", f"{limit}MiB"), limit, smallest))
    return entries


def _entry(result: Mapping[str, Any], limit: int | None, smallest: int) -> dict[str, Any]:
    peak, plan = result["peak_bytes"], result["plan"]
    return {
        "smallest_mib": smallest,
        "limit_mib": limit,
        "predicted_mib": plan["peak"]["predicted_bytes"] / 2**20,
        "measured_mib": peak / 2**20,
        "held": limit is None or peak <= limit * 2**20,
        "plan": plan,
    }


def _run(order: Mapping[str, Any], out: Path, memory: str | None) -> dict[str, Any]:
    """Return what a training process said at its end; numbered folders, for rows follow one another."""
    number = len(list(out.parent.glob(f"{out.name}-*")))
    whole = dict(order) | {"out": str(out.parent / f"{out.name}-{number}"), "memory": memory}
    done = subprocess.run([sys.executable, "-c", CHILD, json.dumps(whole)], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{whole} failed:\n{done.stderr}")
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def _few_photos(archive: Path, folder: Path) -> Path:
    """Unpack PER_CLASS images of each class, so that reading the others does not hide what training takes."""
    taken: Counter[str] = Counter()
    with zipfile.ZipFile(archive) as opened:
        for member in opened.namelist():
            parts = Path(member).parts
            if (
                len(parts) < 2
                or Path(member).suffix.lower() not in (".jpg", ".jpeg", ".png")
                or parts[-2].startswith(".")
            ):
                continue
            if taken[parts[-2]] < PER_CLASS:
                taken[parts[-2]] += 1
                target = folder / parts[-2] / parts[-1]
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(io.BytesIO(opened.read(member)).getvalue())
    return folder


def _write(found: list[dict[str, Any]]) -> None:
    rows = [
        [
            f"{entry['row']} {entry['settings']['model']}",
            "none" if entry["limit_mib"] is None else f"{entry['limit_mib']:,}",
            f"{entry['predicted_mib']:,.0f}",
            f"{entry['measured_mib']:,.0f}",
            "-" if entry["limit_mib"] is None else "yes" if entry["held"] else "NO",
            entry["plan"]["why"].partition("; ")[2] or "-",
        ]
        for entry in found
    ]
    limited = [entry for entry in found if entry["limit_mib"] is not None]
    kept = sum(entry["held"] for entry in limited)
    write_results(
        "memory_limit",
        f"`train --memory`: {kept} of {len(limited)} processes stayed below their limit",
        f"MiB. Limits are the smallest that convscope says would work, and {MARGIN} MiB more. Measured: VmHWM of a "
        "fresh process from its start to its end, reading, model file and report included; one epoch on few images "
        f"(100 digits or {PER_CLASS} photos a class); one process for each figure.",
        ("network", "limit", "predicted", "measured", "held", "what was chosen"),
        rows,
        {"runs": found},
    )


if __name__ == "__main__":
    main()

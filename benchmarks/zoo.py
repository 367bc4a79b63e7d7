"""Every classifier of timm up to 30 million parameters: a training step, its memory as predicted, and its ONNX file.

    python benchmarks/zoo.py            # goes on where it was stopped; every model in a process of its own
    python benchmarks/zoo.py --table    # draws results/zoo.md from what is there

What is measured is what `convscope budget MODEL --measure` measures, on images of 64 px or the smallest size that the
network takes. The ONNX graph is compared with torch on the same random images.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import statistics
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from harness import RESULTS, environment

import convscope.api.budget  # noqa: F401  with it, the server of processes imports all that is used
from convscope.config import ModelConfig, TrainConfig
from convscope.data.batches import Preprocessing
from convscope.inference.export import trace
from convscope.inference.session import start_session
from convscope.memory.layers import NotTraceable
from convscope.memory.predict import predict_step
from convscope.models import build_model, build_shapes
from convscope.models.saved import channels_last
from convscope.models.zoo.catalog import find_network
from convscope.models.zoo.timm_models import timm_names
from convscope.run.measured_step import allocator_growth, warm_up
from convscope.seeds import permutation
from convscope.storage.files import write_bytes
from convscope.training.step import make_step

MOST_PARAMETERS, CLASSES, BATCH, SEED = 30_000_000, 10, 8, 0
SIZES = (64, 96, 128, 160, 192, 224, 240, 256, 288, 320, 384, 448)
TIMEOUT_SECONDS = 240
PARITY = 1e-3
"""Largest difference between ONNX Runtime and torch, relative to the largest logit, that counts as equal."""
KEPT = RESULTS / "zoo.json"
Entry = dict[str, Any]


def main() -> None:
    """Measure what is missing, or draw the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--table", action="store_true", help="only draw the table")
    parser.add_argument("names", nargs="*", help="measure these models, again if they were")
    asked = parser.parse_args()
    kept: dict[str, Entry] = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    names = timm_names()
    if not asked.table:
        order = [names[i] for i in permutation(len(names), "zoo")]  # so that any part of it is a sample
        missing = asked.names or [name for name in order if name not in kept]
        processes = multiprocessing.get_context("forkserver")
        processes.set_forkserver_preload(["zoo"])
        for number, name in enumerate(missing, 1):
            kept[name] = _in_process(processes, name)
            lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(kept[key])}" for key in sorted(kept))
            write_bytes(KEPT, f"{{\n{lines}\n}}\n".encode())
            print(f"{number}/{len(missing)} {name} {kept[name]}", flush=True)
    table = _table(kept, len(names))
    (RESULTS / "zoo.md").write_text(table)
    print(table.partition("\n| ")[0])


def _in_process(processes: multiprocessing.context.BaseContext, name: str) -> Entry:
    """Return what happened to one model in a process of its own."""
    receiver, sender = processes.Pipe(duplex=False)
    child = processes.Process(target=_child, args=(name, sender))  # type: ignore[attr-defined]
    child.start()
    sender.close()
    try:
        entry: Entry = {"died": f"no answer in {TIMEOUT_SECONDS} s"}
        if receiver.poll(TIMEOUT_SECONDS):
            entry = receiver.recv()
            child.join(20)
    except EOFError:
        child.join()
        code = child.exitcode
        entry = {"died": signal.Signals(-code).name if code < 0 else f"exit code {code}"}
    finally:
        if child.is_alive():
            child.kill()
        child.join()
    return entry


def _child(name: str, sender: Connection) -> None:
    torch.set_num_threads(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # torch's exporter prints there
    entry: Entry = {}
    try:
        _measure(name, entry)
    except Exception as error:  # any: what went wrong is what is looked for
        entry["failed"] = _reason(error)
    sender.send(entry)


def _measure(name: str, entry: Entry) -> None:
    model, train = ModelConfig(name=f"timm/{name}"), TrainConfig(batch_size=BATCH)
    published = find_network(model.name)
    assert published is not None
    sizes, size = sorted({*SIZES, published.preprocessing.image_size}), 0
    for size in sizes:
        shape = (3, size, size)
        try:
            shapes = channels_last(build_shapes(model, shape, CLASSES))
            entry["params"] = sum(p.numel() for p in shapes.parameters())
            if entry["params"] > MOST_PARAMETERS:
                return
            try:
                entry["predicted"] = predict_step(shapes, shape, batch_size=BATCH, train=train).peak_bytes
            except NotTraceable:
                real = channels_last(build_model(model, shape, CLASSES))
                entry["predicted"] = predict_step(real, shape, batch_size=BATCH, train=train).peak_bytes
                entry["computed"] = True
            torch.manual_seed(SEED)
            network = channels_last(build_model(model, shape, CLASSES))
        except Exception:  # this size is too small, which each library says in its own way
            if size == sizes[-1]:
                raise
            continue
        break
    entry["size"] = size
    entry["measured"] = _step_bytes(network, size, train)
    _export(network.eval(), size, entry)


def _step_bytes(network: torch.nn.Module, size: int, train: TrainConfig) -> int:
    """Return the peak of the second training step, as `budget --measure` counts it."""
    warm_up()
    network.train()
    step = make_step(network, network, train, "float32", torch.device("cpu"))
    drawn = torch.Generator().manual_seed(SEED)  # a batch of equal images has no variance to normalize by
    images = torch.randint(0, 256, (BATCH, size, size, 3), dtype=torch.uint8, generator=drawn)
    labels, to_unit = torch.arange(BATCH), Preprocessing((0.0,) * 3, (1.0,) * 3)

    def once() -> None:
        step.add_gradients(to_unit.apply(images.clone()), labels)
        step.change_weights()

    once()
    held = sum(t.nbytes for t in (*network.parameters(), *network.buffers()))
    held += sum(slot.nbytes for slots in step.optimizer.slots.values() for slot in slots)
    return held + allocator_growth(once)


def _export(network: torch.nn.Module, size: int, entry: Entry) -> None:
    """Note how far ONNX Runtime and torch differ, relative to the largest logit."""
    images = torch.rand(4, 3, size, size, generator=torch.Generator().manual_seed(SEED))
    with torch.inference_mode():
        expected = network(images).numpy()
    try:
        content = trace(network, torch.zeros(2, 3, size, size), input_name="input", output_names=("output",))
        (found,) = start_session(content, threads=1).run(["output"], {"input": images.numpy()})
    except Exception as error:  # ours, or one of ONNX Runtime's
        entry["onnx"] = _reason(error)
        return
    entry["onnx"] = float(f"{np.abs(found - expected).max() / max(1e-9, np.abs(expected).max()):.1e}")


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:110]


def _table(kept: Mapping[str, Entry], total: int) -> str:
    """Return the page of results."""
    small = {name: one for name, one in sorted(kept.items()) if one.get("params", 0) <= MOST_PARAMETERS}
    errors = {name: one["predicted"] / one["measured"] - 1 for name, one in small.items() if "measured" in one}
    sizes = sorted(map(abs, errors.values()))
    within = ", ".join(f"{sum(e <= at for e in sizes)} within {at:.0%}" for at in (0.01, 0.05, 0.1))
    onnx = {name: one["onnx"] for name, one in small.items() if "onnx" in one}
    equal = [name for name, value in onnx.items() if not isinstance(value, str) and value <= PARITY]
    trouble = {name: one.get("died") or one.get("failed") for name, one in small.items()}
    worst = sorted(errors, key=lambda name: -abs(errors[name]))[:20]
    where = environment()
    return "\n".join(
        [
            f"# {len(small)} classifiers of timm: a training step, its memory, its ONNX file",
            "",
            f"Up to {MOST_PARAMETERS / 1e6:.0f} million parameters, {CLASSES} classes, batches of {BATCH} images of "
            f"64 px or the smallest size a network takes; {len(kept)} of timm's {total} were looked at. Memory is the "
            "peak of a training step, predicted on the meta device against what torch's allocator reports.",
            "",
            f"{where['date']}; {where['cpu']}, {where['cpu_cores']} cores; "
            + ", ".join(f"{package} {number}" for package, number in where["versions"].items())
            + ".",
            "",
            f"- processes that died: {sum('died' in one for one in small.values())}; "
            f"steps that failed: {sum('failed' in one for one in small.values())}",
            f"- memory of {len(sizes)}: median error {statistics.median(sizes) if sizes else 0:.2%}, {within}",
            f"- ONNX: {len(equal)} of {len(onnx)} equal torch within {PARITY:.1g} of the largest logit",
            "",
            "Largest errors of memory: " + ", ".join(f"{name} {errors[name]:+.1%}" for name in worst) + ".",
            "",
            "| not as it should be | |",
            "|---|---|",
            *(f"| {name} | {reason} |" for name, reason in trouble.items() if reason),
            *(f"| {name} | ONNX: {value} |" for name, value in onnx.items() if name not in equal),
            "",
            "| model | px | predicted MB | measured MB | error | ONNX |",
            "|---|---|---|---|---|---|",
            *(
                f"| {name} | {one['size']} | {one['predicted'] / 1e6:.1f} | {one['measured'] / 1e6:.1f} "
                f"| {errors[name]:+.1%} | {'no' if isinstance(one['onnx'], str) else one['onnx']} |"
                for name, one in small.items()
                if "measured" in one and "onnx" in one
            ),
            "",
        ]
    )


if __name__ == "__main__":
    main()

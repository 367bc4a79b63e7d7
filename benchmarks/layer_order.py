"""What channels_last and ReLU after max-pooling save: a training step of N3 and N8 with and without, in turn."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time

import torch
import torch.nn.functional as F
from harness import run_process, summarize, write_results
from torch import nn

from convscope.config import ModelConfig
from convscope.device import configure_threads
from convscope.models import MODELS, build_model
from convscope.models.saved import channels_last

MODELS_MEASURED = ("cnn", "cifar-base")
BATCH_SIZE = 64
WARM_UP = 5
LAYOUTS = {"channels-last": True, "channels-first": False}
ORDERS = {"relu-last": True, "relu-first": False}


def relu_before_pooling(network: nn.Sequential) -> nn.Sequential:
    """Return the network with each ReLU that follows a max-pooling put before it."""
    layers = list(network)
    for index, (layer, following) in enumerate(itertools.pairwise(network)):
        if isinstance(layer, nn.MaxPool2d) and isinstance(following, nn.ReLU):
            layers[index : index + 2] = [following, layer]
    return nn.Sequential(*layers)


def measure_steps(name: str, layout: str, order: str, steps: int) -> list[float]:
    """Return the seconds of forward and backward of each step; weight change and reading of batches left out."""
    configure_threads(None)
    spec = MODELS[name]
    torch.manual_seed(0)
    network = build_model(ModelConfig(name=name), spec.native_shape, spec.native_classes)
    assert isinstance(network, nn.Sequential)
    if not ORDERS[order]:
        network = relu_before_pooling(network)
    x, labels = torch.randn(BATCH_SIZE, *spec.native_shape), torch.arange(BATCH_SIZE) % spec.native_classes
    if LAYOUTS[layout]:
        network, x = channels_last(network), x.contiguous(memory_format=torch.channels_last)
    seconds = []
    for _ in range(WARM_UP + steps):
        start = time.perf_counter()
        F.cross_entropy(network(x), labels).backward()
        seconds.append(time.perf_counter() - start)
        network.zero_grad()
    return seconds[WARM_UP:]


def variants(name: str) -> list[tuple[str, str]]:
    """Return the layouts and orders that differ for a network: N8 has no pooling."""
    orders = list(ORDERS) if name == "cnn" else ["relu-last"]
    return list(itertools.product(LAYOUTS, orders))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--one", nargs=3, metavar=("MODEL", "LAYOUT", "ORDER"), help="measure one variant, print JSON")
    options = parser.parse_args()
    if options.one:
        print(json.dumps({"seconds": measure_steps(*options.one, options.steps)}))
        return
    seconds: dict[tuple[str, str, str], list[float]] = {}
    for _, name in itertools.product(range(options.rounds), MODELS_MEASURED):
        for layout, order in variants(name):
            one = ["--one", name, layout, order, "--steps", str(options.steps)]
            result, _ = run_process([sys.executable, __file__, *one])
            seconds.setdefault((name, layout, order), []).extend(result["seconds"])
    rows, raw = [], {}
    for (name, layout, order), times in seconds.items():
        mine, plain = summarize(times), summarize(seconds[name, "channels-first", variants(name)[-1][1]])
        spread = f"{1000 * mine['median']:.1f} ms ({1000 * mine['min']:.1f} to {1000 * mine['max']:.1f})"
        shown = order if len(variants(name)) > len(LAYOUTS) else "no pooling"
        rows.append([name, layout, shown, spread, f"{plain['median'] / mine['median']:.2f}x", str(mine["n"])])
        raw[f"{name} {layout} {order}"] = times
    write_results(
        "layer_order",
        f"A training step with {BATCH_SIZE} images: memory layout, and ReLU after or before max-pooling",
        f"Fresh processes in turn, {options.rounds} rounds of {options.steps} steps after {WARM_UP} that do not count. "
        "Forward and backward only, on random images. Medians (range); the ratio is to channels-first with the ReLU "
        "first, where there is pooling. tests/test_models.py shows that results are equal.",
        ("network", "layout", "ReLU", "step", "ratio", "n"),
        rows,
        {"seconds": raw},
    )


if __name__ == "__main__":
    main()

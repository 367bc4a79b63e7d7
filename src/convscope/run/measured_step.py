"""Training steps measured in a separate process, so that nothing else is counted.

`python -m convscope.run.measured_step JSON` prints one JSON object; `measure_step` starts it.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from convscope.config import DEFAULT_COMPUTE, ComputeConfig, ModelConfig, TrainConfig, part_from_json
from convscope.data.batches import Preprocessing
from convscope.device import (
    choose_device,
    configure_threads,
    keep_freed_memory,
    memory_in_use_bytes,
    peak_memory_bytes,
    threads_for_step,
)
from convscope.errors import TrainingError, describe_exit
from convscope.memory.macs import count_macs
from convscope.models import build_model, find_model
from convscope.models.saved import channels_last
from convscope.models.spec import InputShape
from convscope.models.stack.notation import build_stack, parse_stack
from convscope.models.surgery.head import freeze_all_but_head
from convscope.models.surgery.segments import checkpoint_activations
from convscope.results.memory import MeasuredMemory
from convscope.torch_internals import allocation_sizes
from convscope.training.step import make_step

TIMED_SECONDS, LEAST_TIMED = 1.0, 3
"""Steps are timed for this many seconds, and at least this many of them."""


def measure_step(
    model: ModelConfig,
    input_shape: InputShape,
    num_classes: int | None,
    *,
    batch_size: int,
    train: TrainConfig,
    compute: ComputeConfig = DEFAULT_COMPUTE,
    frozen: bool = False,
) -> MeasuredMemory:
    """Return the memory and time of a step of training, measured in a new process on the CPU.

    Raises:
        TrainingError: the step failed, for example for lack of memory.
    """
    order = {
        "model": asdict(model),
        "input_shape": input_shape,
        "num_classes": num_classes,
        "batch_size": batch_size,
        "train": asdict(train),
        "compute": asdict(compute),
        "frozen": frozen,
    }
    command = [sys.executable, "-m", "convscope.run.measured_step", json.dumps(order)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise TrainingError(
            f"the process of the measured step {describe_exit(done.returncode, done.stderr)}; try a smaller --batch"
        )
    return MeasuredMemory(**json.loads(done.stdout.strip().splitlines()[-1]))


def _measure(order: Mapping[str, Any]) -> MeasuredMemory:
    model, train = part_from_json(ModelConfig, order["model"]), part_from_json(TrainConfig, order["train"])
    compute = part_from_json(ComputeConfig, order["compute"])
    keep_freed_memory()
    configure_threads(compute.threads)
    cpu = choose_device("cpu")
    if model.stack is None:
        find_model(model.name)  # imports torchvision or timm
    warm_up()
    baseline_bytes = memory_in_use_bytes(cpu)
    channels, height, width = order["input_shape"]
    shape, batch_size = (channels, height, width), order["batch_size"]
    network = channels_last(_build(model, shape, order["num_classes"]))
    if order["frozen"]:
        freeze_all_but_head(network)
    forward = checkpoint_activations(network, shape) if compute.checkpoint_activations else network
    forward.train()
    arithmetic = make_step(network, forward, train, compute.precision, cpu)
    black = Preprocessing((0.0,) * channels, (1.0,) * channels)
    images = torch.zeros(batch_size, height, width, channels, dtype=torch.uint8)
    labels = torch.zeros(batch_size, dtype=torch.int64)
    weight_bytes = sum(t.nbytes for t in (*network.parameters(), *network.buffers()))
    held = weight_bytes + sum(slot.nbytes for slots in arithmetic.optimizer.slots.values() for slot in slots)

    def step() -> None:
        for _ in range(min(2, train.accumulate)):  # with accumulated gradients the second batch takes the most
            arithmetic.add_gradients(black.apply(images.clone()), labels)
        arithmetic.change_weights()

    def predict() -> None:
        with torch.inference_mode():
            network.eval()(black.apply(images))

    step()
    resident = peak_memory_bytes(cpu)
    growth = allocator_growth(step)
    if compute.threads is None:
        configure_threads(threads_for_step(count_macs(network, shape) * batch_size))
    seconds = _time_batches(step, train)
    return MeasuredMemory(
        training_peak_bytes=held + growth,
        step_growth_bytes=growth,
        inference_peak_bytes=weight_bytes + allocator_growth(predict),
        process_peak_bytes=resident,
        baseline_bytes=baseline_bytes,
        batch_seconds=seconds,
    )


def _time_batches(step: Callable[[], None], train: TrainConfig) -> tuple[float, ...]:
    """Return the seconds of each batch."""
    seconds: list[float] = []
    step()  # warm up with this number of threads
    while len(seconds) < LEAST_TIMED or sum(seconds) < TIMED_SECONDS:
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return tuple(one / min(2, train.accumulate) for one in seconds)


def _build(model: ModelConfig, shape: InputShape, num_classes: int | None) -> nn.Module:
    if num_classes is None:
        assert model.stack is not None
        return build_stack(parse_stack(model.stack), shape)
    return build_model(model, shape, num_classes)


def warm_up() -> None:
    """Train a tiny network for one step, so that the libraries are loaded and have their workspace."""
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 2))
    x = torch.zeros(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    F.cross_entropy(layers(x), torch.zeros(2, dtype=torch.int64)).backward()  # type: ignore[no-untyped-call]


def allocator_growth(work: Any) -> int:  # noqa: ANN401
    """Return the peak of torch's CPU allocator during `work()`, in bytes above the start."""
    in_use = peak = 0
    for num_bytes in allocation_sizes(work):
        in_use += num_bytes
        peak = max(peak, in_use)
    return peak


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(_measure(json.loads(sys.argv[1])))) + "\n")

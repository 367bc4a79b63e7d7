"""The memory of three convolutions on RGB pictures of 200x300: predicted, and measured in a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from convscope.budget.memory import predict_memory
from convscope.config import STACK, ModelConfig, TrainConfig
from convscope.lab.experiment import Finding, Lab, Setting
from convscope.lab.variants import sentence
from convscope.models import build_shapes
from convscope.models.saved import channels_last
from convscope.progress import OnProgress, Progress
from convscope.results import Budget, Curves, LayerCost, Line, MeasuredMemory, Table
from convscope.training.measured_step import measure_step

CONFIG = ModelConfig(name=STACK, stack="conv 100 3x3 /2 pad 1; conv 200 3x3 /2 pad 1; conv 400 3x3 /2 pad 1")
INPUT_SHAPE = (3, 200, 300)
BATCH = 50
BATCHES, QUICK_BATCHES = (1, 10, 25, BATCH), (1,)
"""Batch sizes at which a step is measured."""
CLAIMS = {
    "one, of a prediction": 14.41,
    "one, of a batch of 50": 49.69,
    "another, of a prediction": 3.45,
    "another, of a batch of 50": 172.5,
}
"""What two write-ups of this exercise say, in MB."""
CLAIMED_PARAMETERS = 3_423_700
"""What the first says, and what its other figures rest on."""


def find(setting: Setting, on_progress: OnProgress) -> Finding:
    """Predict the memory of training on batches, and measure it."""
    batches = QUICK_BATCHES if setting.quick else BATCHES
    train = TrainConfig()
    predicted = {size: _predict(size, train) for size in dict.fromkeys((*batches, BATCH))}
    measured: dict[int, MeasuredMemory] = {}
    for done, size in enumerate(batches):
        on_progress(Progress("measuring steps of training", done, len(batches), "steps"))
        measured[size] = measure_step(CONFIG, INPUT_SHAPE, None, batch_size=size, train=train)
    peaks = {size: predicted[size].memory.training_peak_bytes for size in batches}
    errors = [100 * (peaks[size] / measured[size].training_peak_bytes - 1) for size in batches]
    full = predicted[BATCH]
    maps = sum(layer.output_bytes for layer in _convolutions(full))
    return Finding(
        answer=_answer(full, maps, errors),
        method="Predicted by following a step of training on tensors without content; measured as what torch's "
        f"allocator gave out in a real step, in a process of its own, on batches of {', '.join(map(str, batches))}. "
        "MB are 1,000,000 bytes; numbers are float32.",
        panels=(
            Curves(
                "Most memory in a step of training",
                "pictures in a batch",
                "MB",
                (
                    Line("predicted", batches, tuple(peaks[size] / 1e6 for size in batches)),
                    Line("measured", batches, tuple(measured[size].training_peak_bytes / 1e6 for size in batches)),
                ),
            ),
            _layer_table(full),
            _claims(full, maps),
        ),
        numbers={
            "num_params": full.num_params,
            "maps_bytes": maps,
            "input_bytes": full.memory.input_bytes,
            "weights_bytes": full.memory.weights_bytes,
            "prediction_peak_bytes": full.memory.prediction_peak_bytes,
            "training_peak_bytes": full.memory.training_peak_bytes,
            "predicted_peak_bytes": {str(size): peak for size, peak in peaks.items()},
            "measured_peak_bytes": {str(size): measured[size].training_peak_bytes for size in batches},
        },
    )


def _predict(size: int, train: TrainConfig) -> Budget:
    network = channels_last(build_shapes(CONFIG, INPUT_SHAPE, None))
    return predict_memory(network, INPUT_SHAPE, batch_size=size, train=train)


def _convolutions(full: Budget) -> list[LayerCost]:
    return [layer for layer in full.layers if layer.num_params]


def _answer(full: Budget, maps: int, errors: Sequence[float]) -> str:
    memory = full.memory
    outputs = [layer.output_bytes / BATCH for layer in _convolutions(full)]
    neighbours = max(a + b for a, b in pairwise(outputs))
    wrong = [name for name, claim in CLAIMS.items() if abs(claim * 1e6 / _true_bytes(name, full, maps) - 1) > 0.1]
    weights, pictures, peak = (
        size / 1e6 for size in (memory.weights_bytes, memory.input_bytes, memory.training_peak_bytes)
    )
    return sentence(
        f"the network has {full.num_params:,} parameters; a prediction holds {neighbours / 1e6:.1f} MB of maps beside "
        f"{weights:.1f} MB of weights, training on {BATCH} pictures keeps {maps / 1e6:.0f} MB of maps beside "
        f"{pictures:.0f} MB of pictures and peaks at {peak:.0f} MB (predictions are {min(errors):+.1f} to "
        f"{max(errors):+.1f} % off what was measured)",
        f"{len(wrong)} of {len(CLAIMS)} published figures are more than 10 % off",
    )


def _true_bytes(claim: str, full: Budget, maps: int) -> float:
    """Return what a published figure should have been: of a batch all maps and pictures, of a prediction its peak."""
    return maps + full.memory.input_bytes if "batch" in claim else full.memory.prediction_peak_bytes


def _layer_table(full: Budget) -> Table:
    rows = [
        (
            " × ".join(map(str, layer.output_shape or ())),
            layer.arithmetic,
            f"{layer.output_bytes / BATCH / 1e6:.2f}",
            f"{layer.output_bytes / 1e6:.0f}",
        )
        for layer in _convolutions(full)
    ]
    return Table(f"Layer by layer, {BATCH} pictures", ("maps", "parameters", "MB for one", "MB for all"), tuple(rows))


def _claims(full: Budget, maps: int) -> Table:
    rows = [(name, f"{claim:g}", f"{_true_bytes(name, full, maps) / 1e6:.1f}") for name, claim in CLAIMS.items()]
    rows.append(("one, parameters", f"{CLAIMED_PARAMETERS:,}", f"{full.num_params:,}"))
    return Table("Published figures and ours, in MB but for the last", ("write-up", "published", "here"), tuple(rows))


LAB = Lab(
    "How much memory do three convolutions on pictures of 200x300 need?",
    "Predicted and measured lie on one line, and it is a steep one: training keeps the maps of every picture.",
    find,
)

"""The memory of three convolutions on RGB images of 200x300: predicted, and measured in a separate process."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log

from convscope.config import STACK, ModelConfig, TrainConfig
from convscope.experiments.experiment import Finding, Lab, Setting
from convscope.experiments.variants import sentence
from convscope.memory.predict import predict_memory
from convscope.models import build_shapes
from convscope.models.saved import channels_last
from convscope.progress import OnProgress, Progress
from convscope.results.memory import Budget, LayerCost, MeasuredMemory
from convscope.results.panels import Curves, Line, Table, table_of
from convscope.run.measured_step import measure_step

CONFIG = ModelConfig(name=STACK, stack="conv 100 3x3 /2 pad 1; conv 200 3x3 /2 pad 1; conv 400 3x3 /2 pad 1")
INPUT_SHAPE = (3, 200, 300)
BATCH = 50
BATCHES, QUICK_BATCHES = (1, 10, 25, BATCH), (1,)
"""Batch sizes whose training step is measured."""
RECORDED = ("input_bytes", "weights_bytes", "prediction_peak_bytes", "training_peak_bytes")
CLAIMED_PARAMETERS = 3_423_700
"""In the first write-up, instead of 903,400."""


@dataclass(frozen=True)
class Claim:
    """A figure of a write-up of this exercise, in MB.

    Args:
        counted: what it adds up, which gives the figure; none of them counts a feature map.
        images: in the batch that it is for.
    """

    name: str
    published: float
    counted: str
    images: int


CLAIMS = (
    Claim("one, of a prediction", 14.41, "3,423,700 parameters and one image", 1),
    Claim("one, of a batch of 50", 49.69, "3,423,700 parameters and 50 images", BATCH),
    Claim("another, of a prediction", 3.45, "903,400 parameters, in MiB", 1),
    Claim("another, of a batch of 50", 172.5, "903,400 parameters, in MiB, 50 times", BATCH),
)


def run(setting: Setting, on_progress: OnProgress) -> Finding:
    """Predict the memory of a training step and measure it."""
    batches = QUICK_BATCHES if setting.quick else BATCHES
    train = TrainConfig()
    network = channels_last(build_shapes(CONFIG, INPUT_SHAPE, None))
    predicted = {size: predict_memory(network, INPUT_SHAPE, batch_size=size, train=train) for size in {*batches, BATCH}}
    measured: dict[int, MeasuredMemory] = {}
    for done, size in enumerate(batches):
        on_progress(Progress("measuring training steps", done, len(batches), "steps"))
        measured[size] = measure_step(CONFIG, INPUT_SHAPE, None, batch_size=size, train=train)
    peaks = {size: predicted[size].memory.training_peak_bytes for size in batches}
    errors = [100 * (peaks[size] / measured[size].training_peak_bytes - 1) for size in batches]
    full = predicted[BATCH]
    maps_bytes = sum(layer.output_bytes for layer in _convolutions(full))
    return Finding(
        answer=_answer(full, maps_bytes, errors),
        method="Predicted by following a training step on the meta device; measured as the memory that torch's "
        f"allocator handed out in a real step, in a separate process, on batches of {', '.join(map(str, batches))}. "
        "1 MB is 1,000,000 bytes; numbers are float32.",
        panels=(
            Curves(
                "Peak memory of a training step",
                "images in a batch",
                "MB",
                (
                    Line("predicted", batches, tuple(peaks[size] / 1e6 for size in batches)),
                    Line("measured", batches, tuple(measured[size].training_peak_bytes / 1e6 for size in batches)),
                ),
            ),
            table_of(
                f"Layer by layer, {BATCH} images",
                _convolutions(full),
                {
                    "feature maps": lambda layer: " × ".join(map(str, layer.output_shape or ())),
                    "parameters": lambda layer: layer.arithmetic,
                    "MB for one": lambda layer: f"{layer.output_bytes / BATCH / 1e6:.2f}",
                    "MB for all": lambda layer: f"{layer.output_bytes / 1e6:.0f}",
                },
            ),
            _claims(full, maps_bytes),
        ),
        numbers={
            "num_params": full.num_params,
            "feature_maps_bytes": maps_bytes,
            **{name: getattr(full.memory, name) for name in RECORDED},
            "predicted_peak_bytes": {str(size): peak for size, peak in peaks.items()},
            "measured_peak_bytes": {str(size): measured[size].training_peak_bytes for size in batches},
        },
    )


def _convolutions(full: Budget) -> list[LayerCost]:
    return [layer for layer in full.layers if layer.num_params]


def _answer(full: Budget, maps_bytes: int, errors: Sequence[float]) -> str:
    memory = full.memory
    outputs = [layer.output_bytes / BATCH for layer in _convolutions(full)]
    neighbours = max(a + b for a, b in pairwise(outputs))
    weights, images, peak = (
        size / 1e6 for size in (memory.weights_bytes, memory.input_bytes, memory.training_peak_bytes)
    )
    near = min(CLAIMS, key=lambda claim: abs(log(claim.published * 1e6 / _true_bytes(claim, full, maps_bytes))))
    return sentence(
        f"the network has {full.num_params:,} parameters; a prediction holds {neighbours / 1e6:.1f} MB of feature maps "
        f"and {weights:.1f} MB of weights, training on {BATCH} images keeps {maps_bytes / 1e6:.0f} MB of feature maps "
        f"and {images:.0f} MB of images and peaks at {peak:.0f} MB (predictions are {min(errors):+.1f} to "
        f"{max(errors):+.1f} % off the measurement)",
        f"all {len(CLAIMS)} published figures are wrong, because none counts feature maps; {near.published:g} MB comes "
        f"near {_true_bytes(near, full, maps_bytes) / 1e6:.1f} by accident, from {near.counted}",
    )


def _true_bytes(claim: Claim, full: Budget, maps_bytes: int) -> float:
    """Return the correct value: of a batch all feature maps and the images, of a prediction its peak."""
    return full.memory.prediction_peak_bytes if claim.images == 1 else maps_bytes + full.memory.input_bytes


def _claims(full: Budget, maps_bytes: int) -> Table:
    rows = [
        (claim.name, f"{claim.published:g}", claim.counted, f"{_true_bytes(claim, full, maps_bytes) / 1e6:.1f}")
        for claim in CLAIMS
    ]
    rows.append(("one, parameters", f"{CLAIMED_PARAMETERS:,}", "", f"{full.num_params:,}"))
    columns = ("write-up", "published", "which counts", "here")
    return Table("Published figures and ours, in MB except the last", columns, tuple(rows))


LAB = Lab(
    "How much memory do three convolutions on images of 200x300 need?",
    "The predicted and the measured line coincide, and they are steep: training keeps the feature maps of every image.",
    run,
)

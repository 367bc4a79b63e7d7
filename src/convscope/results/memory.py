"""The cost of a network and its training: layers, memory, remedies, time."""

from collections.abc import Mapping
from dataclasses import dataclass

READING, TRAINING, EVALUATION, FEATURES, HEAD = "data", "training", "evaluation", "features", "head"
MODEL_FILE, REPORT = "model file", "report"
"""The stages of a run whose memory is predicted and measured."""


@dataclass(frozen=True)
class LayerCost:
    """The cost of one layer of a network.

    Args:
        name: as in the network's state dict; "(network)" for operations outside all layers.
        output_shape: of one image, without the batch axis; None if the output is not a single tensor.
        arithmetic: the count of parameters, for example "(3x3x100 + 1) x 200 = 180,200"; "" without parameters.
        macs: multiply-accumulate operations of convolutions and dense layers, for one image, forward.
        output_bytes, saved_bytes: of the output, and of the tensors saved for the backward pass; for the whole batch.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...] | None
    num_params: int
    arithmetic: str
    macs: int
    output_bytes: int
    saved_bytes: int


@dataclass(frozen=True)
class Memory:
    """The memory of a network in bytes, for the whole batch: allocated memory, not resident memory.

    Args:
        weights_bytes: parameters. buffers_bytes: running statistics and other buffers.
        gradients_bytes: one number per trainable parameter, at the end of the backward pass.
        saved_bytes: tensors saved for the backward pass, each storage counted once, summed over the layers; neither
            parameters nor input.
        workspace_bytes: the peak of everything else.
        input_bytes: the preprocessed images, float32.
        prediction_peak_bytes, inference_peak_bytes: peak for one image and for the batch, weights included.
        training_peak_bytes: peak of a training step: forward, loss, backward, weight update.
        peak_parts: memory at that moment, part -> bytes; the sum is `training_peak_bytes`.
        baseline_bytes: resident memory of interpreter and libraries before the network is built; None: not measured.
    """

    weights_bytes: int
    buffers_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    saved_bytes: int
    workspace_bytes: int
    input_bytes: int
    prediction_peak_bytes: int
    inference_peak_bytes: int
    training_peak_bytes: int
    peak_parts: Mapping[str, int]
    baseline_bytes: int | None = None

    @property
    def process_peak_bytes(self) -> int | None:
        """Return the peak resident memory of a process that trains; None without a baseline."""
        return None if self.baseline_bytes is None else self.baseline_bytes + self.training_peak_bytes


@dataclass(frozen=True)
class MeasuredMemory:
    """The memory of a training step, measured in a separate process, in bytes.

    Args:
        step_growth_bytes: peak of torch's allocator during a step, minus its level before the step.
        training_peak_bytes: the same with weights, buffers and optimizer state, which exist before the step.
        inference_peak_bytes: peak of predicting one batch, weights and buffers included.
        baseline_bytes: the share of interpreter, libraries and their scratch space, before the network was built.
        batch_seconds: time of each batch: forward, loss, backward, weight update.
    """

    step_growth_bytes: int
    training_peak_bytes: int
    inference_peak_bytes: int
    process_peak_bytes: int
    baseline_bytes: int
    batch_seconds: tuple[float, ...] = ()


@dataclass(frozen=True)
class Remedy:
    """A way to train with less memory, priced for one network, input, batch and optimizer.

    Args:
        options: of `convscope train`; "" if it has no option for this.
        changes_result: whether training gives another network; otherwise the gradient is the same up to rounding.
        training_peak_bytes: peak of a training step with this remedy alone, on one device.
        saved_bytes: the reduction of that peak.
        time_factor: estimated time for the same images, relative to training without the remedy; None: unknown.
    """

    name: str
    options: str
    changes_result: bool
    training_peak_bytes: int
    saved_bytes: int
    time_factor: float | None
    note: str = ""


@dataclass(frozen=True)
class Fit:
    """How `convscope train --memory` trains within a limit.

    Args:
        limit_bytes: for all that the process or device holds.
        peak_bytes: the most that the process is expected to take, in its largest stage.
        stages: stage -> peak of the process in it.
        time_factor: time of a training step, 1 being without the limit; estimated.
        options: of `convscope train`, that do the same by hand; "" where nothing has to change.
    """

    limit_bytes: int
    peak_bytes: int
    stages: Mapping[str, int]
    batch_size: int
    micro_batches: int
    checkpoint_activations: bool
    evaluation_batch_size: int | None
    time_factor: float
    options: str
    reason: str


@dataclass(frozen=True)
class Duration:
    """The training time on this machine.

    Args:
        images: per epoch.
        step_seconds: from one weight update to the next.
        epoch_seconds, run_seconds: training only, without validation, decoding and the report.
        low_factor, high_factor: the true time is expected between these multiples of the estimate.
        measured_batch_size: of the timed batches; None: the time is estimated from the operations.
    """

    images: int
    epochs: int
    steps_an_epoch: int
    step_seconds: float
    epoch_seconds: float
    run_seconds: float
    low_factor: float
    high_factor: float
    measured_batch_size: int | None


@dataclass(frozen=True)
class Budget:
    """The cost of training a network with one batch size.

    Args:
        input_shape: (C, H, W) of an image.
        layers: in the order of their first use.
        computed: whether a real step was run, because the network does not run on the meta device.
        remedies, fit, duration, measured: empty or None unless requested.
    """

    model: str
    input_shape: tuple[int, int, int]
    batch_size: int
    optimizer: str
    momentum: float
    num_params: int
    num_trainable: int
    macs: int
    layers: tuple[LayerCost, ...]
    memory: Memory
    computed: bool = False
    remedies: tuple[Remedy, ...] = ()
    fit: Fit | None = None
    duration: Duration | None = None
    measured: MeasuredMemory | None = None

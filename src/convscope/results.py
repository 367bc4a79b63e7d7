"""What the stages hand on to one another: frozen dataclasses over numpy and plain values, no torch.

Letters: N pictures, H height, W width, C channels, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

Z_95 = 1.959963984540054
"""The 97.5 % quantile of the standard normal distribution, for two-sided 95 % intervals."""


@dataclass(frozen=True)
class EpochRecord:
    """One line of history.jsonl. Losses are mean cross-entropy in nats, accuracies fractions of 1.

    `train_*` are averages over the epoch while the weights were changing, dropout and augmentation included;
    `validation_*` are measured at its end and None when the run has no validation part.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    validation_loss: float | None
    validation_accuracy: float | None
    lr: float
    examples_seen: int
    seconds: float


@dataclass(frozen=True)
class Accuracy:
    """A fraction of right answers with its 95 % interval."""

    value: float
    low: float
    high: float
    correct: int
    n: int


def accuracy_of(*, correct: int, n: int) -> Accuracy:
    """Return `correct / n` with its Wilson 95 % score interval.

    Raises:
        ValueError: n is not positive or correct is not in 0..n.

    Source: E. B. Wilson, JASA 22 (1927) 209-212; unlike the normal interval it never leaves 0..1.

    Example:
        >>> round(accuracy_of(correct=98, n=100).low, 4)
        0.93
    """
    if not (n > 0 and 0 <= correct <= n):
        raise ValueError(f"accuracy needs 0 <= correct <= n and n > 0, got correct={correct}, n={n}")
    return _with_interval(correct / n, n)


def mean_accuracy_of(*, correct: Sequence[int], n: int) -> Accuracy:
    """Return the mean accuracy of several runs on the same n pictures, with the Wilson interval of a share of n.

    The pictures are the same ones every time, so more runs do not narrow the interval; `correct` is a rounded mean.
    """
    return _with_interval(sum(correct) / (len(correct) * n), n)


def _with_interval(share: float, n: int) -> Accuracy:
    spread = Z_95**2 / n
    centre = (share + spread / 2) / (1 + spread)
    half_width = Z_95 * sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    return Accuracy(share, max(0.0, centre - half_width), min(1.0, centre + half_width), round(share * n), n)


@dataclass(frozen=True)
class Predictions:
    """What a model said about N pictures.

    Args:
        ids: path or index of each picture, N strings.
        labels: true class numbers, int64 [N].
        probabilities: float32 [N, K], each row sums to 1.
        losses: cross-entropy of each picture in nats, float64 [N].
        class_names: K names.
    """

    ids: tuple[str, ...]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    losses: NDArray[np.float64]
    class_names: tuple[str, ...]

    @property
    def predicted(self) -> NDArray[np.int64]:
        """Return the most probable class of each picture, int64 [N]; the first one on a tie."""
        return np.asarray(self.probabilities.argmax(axis=1), dtype=np.int64)


@dataclass(frozen=True)
class ClassMetrics:
    """How one class fares. A figure is None where its denominator is zero."""

    name: str
    n: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class Metrics:
    """What was measured on one part of the data.

    Args:
        topk_accuracy: k -> fraction of pictures whose true class is among the k most probable.
        confusion: int64 [K, K]; row = true class, column = predicted class.
    """

    accuracy: Accuracy
    loss: float
    topk_accuracy: Mapping[int, float]
    per_class: tuple[ClassMetrics, ...]
    confusion: NDArray[np.int64]


@dataclass(frozen=True)
class ReliabilityBin:
    """The answers whose confidence, the probability of the predicted class, lies in (low, high]; None where n is 0."""

    low: float
    high: float
    n: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Reliability:
    """Whether a network is right as often as it is sure, on n pictures.

    Args:
        ece: expected calibration error: mean distance of accuracy and confidence over the bins, by their n.
        loss: mean cross-entropy in nats.
    """

    n: int
    ece: float
    loss: float
    bins: tuple[ReliabilityBin, ...]


@dataclass(frozen=True)
class Calibration:
    """Reliability of a network as trained, and with its logits divided by a fitted temperature.

    Args:
        part: the part of the data it was measured on.
        fitted_on: validation pictures that the temperature was fitted on, or could have been.
        temperature, scaled: None where no temperature could be fitted.
    """

    part: str
    as_trained: Reliability
    fitted_on: int
    temperature: float | None
    scaled: Reliability | None


@dataclass(frozen=True)
class RunResult:
    """What a run ended with; results.json holds the same. None is unknown or not measured.

    Args:
        part: the part of the data that `metrics` were measured on; "test" unless the data have none.
        macs: multiply-accumulate operations for one prediction.
        train_seconds: time in training and validation, over all sittings.
        peak_memory_bytes: most memory held by the process (on CUDA: by the device) up to the end of evaluation.
        fraction_of_peak_flops: operations of training and validation per second, as a fraction of the rate of a
            large matrix product in the same number format, measured in the same process.
        leaked_pictures: pictures of the part that training or validation data have too, or nearly so; not 0 only where
            the source itself says which pictures are in which part.
        accuracy_without_leaked: on the others; None where there are none, or no leaks.
        notes: what a reader should know of how the run went, a sentence each.
    """

    run: str
    model: str
    data: str
    seed: int
    part: str
    metrics: Metrics
    num_params: int
    macs: int | None = None
    epochs: int | None = None
    best_epoch: int | None = None
    train_seconds: float | None = None
    peak_memory_bytes: int | None = None
    fraction_of_peak_flops: float | None = None
    split_sha256: str | None = None
    leaked_pictures: int | None = None
    accuracy_without_leaked: Accuracy | None = None
    notes: tuple[str, ...] = ()

    @property
    def accuracy(self) -> Accuracy:
        """Return the accuracy with its interval."""
        return self.metrics.accuracy


PARITY_TOLERANCE = 1e-3
"""Largest difference of a probability between a network and its model file that needs no remark."""


@dataclass(frozen=True)
class Certificate:
    """How far a model file is from the network it was made of.

    Args:
        pictures: test pictures that were compared.
        from_files: whether the file's side read them anew from the bytes on disk, not from memory.
        largest_difference: of a probability, over all pictures and classes.
        changed: ids of pictures that get another class.
        failed: why there is no model file; the rest is empty then.
    """

    pictures: int = 0
    from_files: bool = False
    largest_difference: float | None = None
    changed: tuple[str, ...] = ()
    failed: str | None = None

    @property
    def agrees(self) -> bool:
        """Whether the file can stand for the network."""
        return self.largest_difference is not None and self.largest_difference <= PARITY_TOLERANCE

    @property
    def remark(self) -> str | None:
        """What is to be said of it, a sentence; None if all is well."""
        if self.failed is not None:
            return f"There is no model.onnx, so convscope predict cannot be used: {self.failed}."
        if self.agrees:
            return None
        return (
            f"model.onnx and the network differ by up to {self.largest_difference:.2g} in a probability on "
            f"{self.pictures} pictures, {len(self.changed)} of which get another class; expected at most "
            f"{PARITY_TOLERANCE:g}."
        )


@dataclass(frozen=True)
class LayerCost:
    """What one layer of a network costs.

    Args:
        name: as in the network's state dict, "(network)" for what is done outside of all layers.
        kind: the class of the layer.
        output_shape: of one picture, without the batch axis; None where the output is no single tensor.
        arithmetic: how the parameters are counted, for example "(3x3x100 + 1) x 200 = 180,200"; "" without parameters.
        macs: multiply-accumulate operations of convolutions and dense layers, for one picture, forward.
        output_bytes: of the output for the whole batch.
        saved_bytes: what this layer makes and the backward pass needs, so that it stays; for the whole batch.
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
    """Where the memory of a network goes, in bytes, for the whole batch; what it would allocate, not what is resident.

    Args:
        weights_bytes: parameters; `buffers_bytes`: running statistics and the like.
        gradients_bytes: one number for each parameter that learns, at the end of the backward pass.
        optimizer_bytes: what the optimizer keeps from step to step.
        saved_bytes: what the forward pass leaves for the backward pass, each piece of memory once, the sum over the
            layers; neither parameters nor input.
        workspace_bytes: the most that is in use at a time beside all these.
        input_bytes: the prepared pictures, float32.
        prediction_peak_bytes, inference_peak_bytes: the most for one picture and for the batch, weights included.
        training_peak_bytes: the most in a step of training: forward, loss, backward, change of the weights.
        peak_parts: what is there at that moment, part -> bytes; their sum is `training_peak_bytes`.
        baseline_bytes: resident memory of interpreter and libraries before the network, measured; None if not measured.
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
        """Return the most resident memory of a process that trains; None without a baseline."""
        return None if self.baseline_bytes is None else self.baseline_bytes + self.training_peak_bytes


@dataclass(frozen=True)
class MeasuredMemory:
    """What a step of training took in a process of its own, in bytes.

    Args:
        step_growth_bytes: the most that torch's allocator gave out during a step beyond what it had given out before.
        training_peak_bytes: the same with weights, buffers and optimizer, which were there before.
        inference_peak_bytes: the most for predictions of one batch, weights and buffers included.
        process_peak_bytes: the most resident memory of the process.
        baseline_bytes: of it, what interpreter, libraries and their scratch space took before the network was built.
        batch_seconds: of each timed batch: forward, loss, backward, change of the weights.
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
        options: of `convscope train`; "" where it has none for this yet.
        changes_result: whether another network comes out of it; otherwise the gradient is the same, but for rounding.
        training_peak_bytes: the most in a step of training with this remedy alone, on one device.
        saved_bytes: how much less that is.
        time_factor: time for the same pictures, 1 being without it; estimated. None where nobody can know.
        note: what to know about it.
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
    """The quickest way to train within a limit, with the same pictures between two changes of the weights.

    Args:
        limit_bytes: for all that the process or device holds.
        beside_bytes: of it, what is there beside the network: interpreter, libraries and their scratch space.
        reserve_bytes: of it, what is kept free for gaps between pieces of memory.
        batch_size: pictures in the network at a time; `accumulate` of them make a step.
        training_peak_bytes: the most in a step of training, `beside_bytes` not included.
        time_factor: time for the same pictures, 1 being without the limit; estimated.
        options: of `convscope train`; "" where nothing has to change.
        reason: why this one, in a sentence.
    """

    limit_bytes: int
    beside_bytes: int
    reserve_bytes: int
    batch_size: int
    accumulate: int
    checkpoint_activations: bool
    mixed_precision: bool
    training_peak_bytes: int
    time_factor: float
    options: str
    reason: str


@dataclass(frozen=True)
class Duration:
    """How long training takes on this machine.

    Args:
        pictures: of an epoch.
        step_seconds: from one change of the weights to the next.
        epoch_seconds, run_seconds: training alone, without validation, reading pictures and the report.
        low_factor, high_factor: between these multiples of it the truth is expected.
        measured_batch_size: of the batches that were timed; None: nothing was, the time is estimated from operations.
    """

    pictures: int
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
    """What training a network on batches of one size takes.

    Args:
        input_shape: (C, H, W) of a picture.
        num_trainable: the parameters that learn; the others are frozen.
        macs: multiply-accumulate operations of convolutions and dense layers, for one picture, forward.
        layers: in the order in which they are first used.
        computed: whether it is from a step that was really computed, as the network cannot do without content.
        remedies, fit, duration: where they were asked for.
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


@dataclass(frozen=True)
class ModelSummary:
    """One network of a comparison: all runs that differ in nothing but their seed. None is unknown or not measured.

    Args:
        model: its name, with the options that tell it from others of that name.
        runs: run folders, one a seed, in the order of `seeds` and `accuracies`.
        accuracy: mean over the seeds; its interval is for pictures alone.
        std: standard deviation of `accuracies` (n - 1 in the denominator); None of one run.
        train_seconds: mean over the seeds.
        peak_memory_bytes: of the process, measured; the largest of the seeds.
        macs: multiply-accumulate operations for one prediction.
        latency_ms: time of a prediction of one picture with model.onnx, median; decoding is not part of it.
        step_memory_bytes: the most that a step of training allocates, predicted; the process takes more, for the
            interpreter, the libraries and the pictures.
    """

    model: str
    runs: tuple[str, ...]
    seeds: tuple[int, ...]
    accuracies: tuple[float, ...]
    accuracy: Accuracy
    std: float | None
    num_params: int
    macs: int | None
    train_seconds: float | None
    peak_memory_bytes: int | None
    latency_ms: float | None = None
    step_memory_bytes: int | None = None

    @property
    def n_seeds(self) -> int:
        """Return how many runs there are."""
        return len(self.runs)


@dataclass(frozen=True)
class McNemar:
    """The exact McNemar test of one run of either network: who alone is right, and the two-sided p value."""

    seed_a: int
    seed_b: int
    only_a: int
    only_b: int
    p_value: float


@dataclass(frozen=True)
class Disagreement:
    """A picture that one network of a pair gets right more often than the other.

    Args:
        right_a, right_b: share of each network's runs that are right, 0..1.
        predicted_a, predicted_b: the class that most of its runs say.
    """

    picture: str
    true: str
    right_a: float
    right_b: float
    predicted_a: str
    predicted_b: str


@dataclass(frozen=True)
class Pair:
    """Two networks side by side on the same pictures; differences are b minus a, in fractions of 1.

    Args:
        difference: of the mean accuracies; `low` and `high` are its 95 % interval, `std_error` and `degrees_of_freedom`
            what it is made from.
        rests_on: what the interval and the p value allow for: "pictures and seeds", or "pictures" for one run each.
        p_adjusted: `p_value` after Holm's correction for all pairs of the comparison.
        verdict: the better network, or `cannot tell`.
        sentence: the verdict in words, with what would be needed where it is open.
        more_pictures, more_seeds: how many more test pictures, or seeds of either network, would settle a difference
            as large as the measured one, with a chance of 80 %; None: no number of them alone would, or none is needed.
        mcnemar: the first run of a with the first of b, and so on.
        disagreements: largest difference first.
    """

    a: str
    b: str
    difference: float
    low: float
    high: float
    std_error: float
    degrees_of_freedom: float
    rests_on: str
    p_value: float
    p_adjusted: float
    verdict: str
    sentence: str
    more_pictures: int | None
    more_seeds: int | None
    mcnemar: tuple[McNemar, ...]
    disagreements: tuple[Disagreement, ...]


CANNOT_TELL = "cannot tell"
"""The verdict where neither network of a pair is shown to be the better."""


@dataclass(frozen=True)
class Comparison:
    """Several networks measured on the same pictures, and every pair of them."""

    data: str
    part: str
    n_pictures: int
    models: tuple[ModelSummary, ...]
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class ImageGrid:
    """Pictures with captions, a line break between the parts of a caption.

    `images` are uint8 [H, W, C] each, C 1 or 3, sizes may differ; an empty one stands for a picture that was not kept.
    `wrong` marks pictures as wrong; empty when there is nothing to mark.
    """

    title: str
    images: tuple[NDArray[np.uint8], ...]
    captions: tuple[str, ...]
    wrong: tuple[bool, ...] = ()


@dataclass(frozen=True)
class Line:
    """One named line of a chart; a y of None is a gap. `notes` says more about each point when one looks closer.

    `low` and `high` bound what is uncertain about each y; empty where nothing is known of it.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float | None, ...]
    notes: tuple[str, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


@dataclass(frozen=True)
class Curves:
    """Lines over a common axis; axis labels carry their unit. `note_label` names what the lines' notes say."""

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    note_label: str = ""


@dataclass(frozen=True)
class Point:
    """One named point of a chart, with the interval of its y; `marked` ones are joined by a line."""

    name: str
    x: float
    y: float
    low: float
    high: float
    marked: bool


@dataclass(frozen=True)
class Scatter:
    """Points on two axes, whose labels carry their unit; `mark` says what the marked ones are."""

    title: str
    x_label: str
    y_label: str
    points: tuple[Point, ...]
    mark: str


@dataclass(frozen=True)
class Intervals:
    """Named values one below the other, each with its interval and the single measurements behind it.

    `low` and `high` bound each value; `points` holds its single measurements. The axis label carries the unit.
    """

    title: str
    value_label: str
    names: tuple[str, ...]
    values: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    points: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Matrix:
    """A table of counts with named rows and columns, values int64 [rows, columns]."""

    title: str
    row_label: str
    column_label: str
    row_names: tuple[str, ...]
    column_names: tuple[str, ...]
    values: NDArray[np.int64]


@dataclass(frozen=True)
class Table:
    """Rows of text under column headings."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Maps:
    """Maps of numbers, several to a picture: what a layer made of a picture, or what it has learned.

    Args:
        maps: one entry a picture, float32 [M, H, W], M maps that share one scale, or [M, H, W, 3], colours in 0..1;
            NaN where there is nothing. Sizes may differ.
        captions: one for each entry, a line break between its parts.
    """

    title: str
    maps: tuple[NDArray[np.float32], ...]
    captions: tuple[str, ...]


@dataclass(frozen=True)
class Heat:
    """How much each place of a picture counts.

    Args:
        picture: uint8 [H, W, C], C 1 or 3.
        heats: float32 [h, w] each, spread over the whole picture; negative where a place counts against.
        captions: one for each heat, a line break between its parts.
    """

    title: str
    picture: NDArray[np.uint8]
    heats: tuple[NDArray[np.float32], ...]
    captions: tuple[str, ...]


Panel = ImageGrid | Curves | Intervals | Scatter | Matrix | Table | Maps | Heat

"""The results of a run: epochs, accuracy with its interval, predictions, calibration, the certificate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from convscope.results.prediction import Skipped

Z_95 = 1.959963984540054
"""The 97.5 % quantile of the standard normal distribution, for two-sided 95 % intervals."""


@dataclass(frozen=True)
class EpochRecord:
    """One line of history.jsonl. Losses are mean cross-entropy in nats, accuracies are fractions.

    `train_*` are averages over the epoch while the weights change, with dropout and augmentation; `validation_*` are
    measured at its end, and None without a validation split.
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
    """A fraction of correct predictions with its 95 % interval."""

    value: float
    low: float
    high: float
    correct: int
    n: int


def accuracy_of(*, correct: int, n: int) -> Accuracy:
    """Return `correct / n` with its Wilson 95 % score interval.

    Raises:
        ValueError: n is not positive or correct is not in 0..n.

    Source: E. B. Wilson, JASA 22 (1927) 209-212; unlike the normal interval it stays within 0..1.

    Example:
        >>> round(accuracy_of(correct=98, n=100).low, 4)
        0.93
    """
    if not (n > 0 and 0 <= correct <= n):
        raise ValueError(f"accuracy needs 0 <= correct <= n and n > 0, got correct={correct}, n={n}")
    return _with_interval(correct / n, n)


def mean_accuracy_of(*, correct: Sequence[int], n: int) -> Accuracy:
    """Return the mean accuracy of several runs on the same n images, with the Wilson interval for n images.

    More runs do not narrow the interval, because all see the same images. The result's `correct` is a rounded mean.
    """
    return _with_interval(sum(correct) / (len(correct) * n), n)


def _with_interval(fraction: float, n: int) -> Accuracy:
    spread = Z_95**2 / n
    centre = (fraction + spread / 2) / (1 + spread)
    half_width = Z_95 * sqrt(fraction * (1 - fraction) / n + spread / (4 * n)) / (1 + spread)
    return Accuracy(fraction, max(0.0, centre - half_width), min(1.0, centre + half_width), round(fraction * n), n)


@dataclass(frozen=True)
class Predictions:
    """The predictions of a model for N images.

    Args:
        ids: path or index of each image, N strings.
        labels: true class numbers, int64 [N].
        probabilities: float32 [N, K], each row sums to 1.
        losses: cross-entropy of each image in nats, float64 [N].
        class_names: K names.
    """

    ids: tuple[str, ...]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    losses: NDArray[np.float64]
    class_names: tuple[str, ...]

    @property
    def predicted(self) -> NDArray[np.int64]:
        """Return the most probable class of each image, int64 [N]; of equal ones the first."""
        return np.asarray(self.probabilities.argmax(axis=1), dtype=np.int64)


@dataclass(frozen=True)
class ClassMetrics:
    """The metrics of one class; None where the denominator is zero."""

    name: str
    n: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class Metrics:
    """The metrics on one split of the data.

    Args:
        topk_accuracy: k -> fraction of images whose true class is among the k most probable ones.
        confusion: int64 [K, K]; row = true class, column = predicted class.
    """

    accuracy: Accuracy
    loss: float
    topk_accuracy: Mapping[int, float]
    per_class: tuple[ClassMetrics, ...]
    confusion: NDArray[np.int64]


@dataclass(frozen=True)
class ReliabilityBin:
    """The predictions with a confidence, the probability of the predicted class, in (low, high]; None where n is 0."""

    low: float
    high: float
    n: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Reliability:
    """Accuracy against confidence on n images.

    Args:
        ece: expected calibration error: mean distance of accuracy and confidence over the bins, weighted by their n.
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
        fitted_on: number of validation images available to fit the temperature.
        temperature, scaled: None if no temperature could be fitted.
    """

    split: str
    as_trained: Reliability
    fitted_on: int
    temperature: float | None
    scaled: Reliability | None


@dataclass(frozen=True)
class OtherData:
    """What is known of evaluated data that are not the run's own.

    Args:
        source: their name or path.
        skipped: files that could not be used.
        trained_on: number of evaluated images that the network was trained on or that its validation split has.
        accuracy_without: on the other images; None if there are none.
    """

    source: str
    skipped: tuple[Skipped, ...]
    trained_on: int
    accuracy_without: Accuracy | None


@dataclass(frozen=True)
class RunResult:
    """The result of a run, as in results.json. None means unknown or not measured.

    Args:
        split: the split that `metrics` were measured on: "test", or "validation" if the data have no test split; "all"
            for other data without a test split.
        train_seconds: time in training and validation, over all sessions.
        peak_memory_bytes: peak memory of the process (on CUDA: of the device) up to the end of the evaluation.
        fraction_of_peak_flops: operations of training and validation per second, as a fraction of the rate of a large
            matrix product or convolution, whichever is faster, in the same number format, measured in the same process.
        leaked_images: images of the split with a duplicate or near duplicate in the training or validation split;
            nonzero only if the source itself defines the splits.
        accuracy_without_leaked: on the other images; None without leaks or without other images.
        baseline_class: the most frequent class of the training split.
        baseline_accuracy: the accuracy of always naming it.
        other_data: None for the run's own data.
    """

    run: str
    model: str
    data: str
    seed: int
    split: str
    metrics: Metrics
    num_params: int
    macs: int | None = None
    epochs: int | None = None
    best_epoch: int | None = None
    train_seconds: float | None = None
    peak_memory_bytes: int | None = None
    fraction_of_peak_flops: float | None = None
    split_sha256: str | None = None
    leaked_images: int | None = None
    accuracy_without_leaked: Accuracy | None = None
    baseline_class: str | None = None
    baseline_accuracy: float | None = None
    notes: tuple[str, ...] = ()
    other_data: OtherData | None = None

    @property
    def accuracy(self) -> Accuracy:
        """Return the accuracy with its interval."""
        return self.metrics.accuracy


def split_text(split: str, data: str = "") -> str:
    """Return what was measured on, ready to follow "on": "the test split of mnist5k", "all images of photos"."""
    what = "all images" if split == "all" else f"the {split} split"
    return f"{what} of {data}" if data else what


def chosen_by_text(split: str) -> str:
    """Return a warning about figures of a split that training looked at; "" if it did not."""
    if split != "validation":
        return ""
    return "there is no test split, and the validation images chose the best epoch: new images may do worse"


def guessing_text(accuracy_low: float, baseline: float, class_name: str) -> str:
    """Return what an accuracy, whose interval begins at `accuracy_low`, is to be compared with."""
    percent = f"{100 * baseline:.1f}\N{NO-BREAK SPACE}%"
    if accuracy_low <= baseline:
        return f"not better than guessing (always naming {class_name} gives {percent})"
    return f"always naming {class_name}, the most frequent class in training, gives {percent}"


PARITY_TOLERANCE = 1e-3
"""Largest difference of a probability between a network and its model file that rounding explains."""


@dataclass(frozen=True)
class Certificate:
    """The comparison of a model file with its network.

    Args:
        split: whose images were compared; None in older files.
        images: number of images compared.
        from_files: whether the model file's side read the images again from the bytes on disk.
        largest_difference: of a probability, over all images and classes.
        changed: ids of images that get another class.
        failed: why there is no model file; the other fields are empty then.
    """

    images: int = 0
    from_files: bool = False
    largest_difference: float | None = None
    changed: tuple[str, ...] = ()
    failed: str | None = None
    split: str | None = None

    @property
    def agrees(self) -> bool:
        """Whether the differences are within rounding."""
        return self.largest_difference is not None and self.largest_difference <= PARITY_TOLERANCE

    @property
    def remark(self) -> str | None:
        """Return one sentence about a problem; None if there is none."""
        if self.failed is not None:
            return f"There is no model.onnx, so convscope predict does not work: {self.failed}."
        if self.agrees:
            return None
        return (
            f"model.onnx and the network differ by up to {self.largest_difference:.2g} in a probability on "
            f"{self.images} images, {len(self.changed)} of which get another class; expected at most "
            f"{PARITY_TOLERANCE:g}."
        )

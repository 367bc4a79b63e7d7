"""The result of comparing several networks."""

from dataclasses import dataclass

from convscope.results.run import Accuracy


@dataclass(frozen=True)
class ModelSummary:
    """One network of a comparison: all runs that differ only in their seed. None means unknown or not measured.

    Args:
        model: its name, with the options that distinguish it from others of that name.
        runs: run folders, one per seed, in the order of `seeds` and `accuracies`.
        accuracy: mean over the seeds; the interval is over images only.
        std: standard deviation of `accuracies` (n - 1 in the denominator); None for one run.
        train_seconds, peak_memory_bytes: of the process, measured; mean and maximum over the seeds.
        latency_ms: median time to predict one decoded image with model.onnx.
        step_memory_bytes: predicted peak of a training step; the process needs more, for the interpreter, the libraries
            and the images.
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
        """Return the number of runs."""
        return len(self.runs)


@dataclass(frozen=True)
class McNemar:
    """The exact McNemar test of a run of each network: images that only one predicts correctly, two-sided p value."""

    seed_a: int
    seed_b: int
    only_a: int
    only_b: int
    p_value: float


@dataclass(frozen=True)
class Disagreement:
    """An image that one network of a pair predicts correctly more often than the other.

    Args:
        correct_a, correct_b: fraction of each network's runs that are correct, 0..1.
        predicted_a, predicted_b: the class that most of its runs predict.
    """

    image: str
    true: str
    correct_a: float
    correct_b: float
    predicted_a: str
    predicted_b: str


@dataclass(frozen=True)
class Pair:
    """Two networks on the same images; differences are b minus a, as fractions.

    Args:
        difference: of the mean accuracies; `low` and `high` bound its interval, which comes from `std_error` and
            `degrees_of_freedom`. The intervals of all pairs of the comparison hold together in 95 % of comparisons.
        rests_on: the variation that the interval and the p values include: "images and seeds", or "images, with seeds
            assumed" for one run of each.
        p_adjusted: `p_value` after Bonferroni's correction for all pairs of the comparison; below 5 % if and only if
            the interval excludes 0.
        verdict: the better network if the interval excludes 0, or `cannot tell`.
        sentence: the verdict in words; if it is open, what would settle it.
        more_images, more_seeds: how many more test images, or seeds of each network, would settle a difference as large
            as the measured one with a probability of 80 %; None: no number of them alone would, or none is needed.
        mcnemar: of the first run of a and the first of b, and so on.
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
    more_images: int | None
    more_seeds: int | None
    mcnemar: tuple[McNemar, ...]
    disagreements: tuple[Disagreement, ...]


CANNOT_TELL = "cannot tell"
"""The verdict if neither network of a pair is shown to be better."""
CLOSE = (0.02, 0.15)
"""Adjusted p values between these are so near to the level of a verdict that it can turn by chance."""


def is_close(p_adjusted: float) -> bool:
    """Return whether a verdict is too near to the line to be repeated with certainty."""
    return CLOSE[0] < p_adjusted < CLOSE[1]


@dataclass(frozen=True)
class Comparison:
    """Several networks measured on the same images, and the pairs of them.

    Args:
        baseline_class, baseline_accuracy: the most frequent class in training, and the accuracy of naming it; None
            if not recorded.
    """

    data: str
    split: str
    n_images: int
    models: tuple[ModelSummary, ...]
    pairs: tuple[Pair, ...]
    baseline_class: str | None = None
    baseline_accuracy: float | None = None

"""Is one network better than another, or was it lucky with the images and the seeds?

Letters: K runs (seeds) of a network, N test images.

The question is whether training network b gives a higher accuracy than training network a: on average over seeds, on
all images of the same kind as the test images, with this training split. Two things vary. The sample of test images is
the same for all runs, so differences are taken image by image. The seed of a run affects all its images together, so K
runs on N images are not K * N observations.

A test over images alone (McNemar on one run of each) takes the luck of two seeds for a property of the networks; a
t test over seeds alone does the same with the luck of one set of images. Both err far more often than they claim.

The interval is the set of differences that the test does not reject, at a level that allows for all pairs of the
comparison. So a verdict and its interval cannot contradict each other: a network is better if its interval excludes 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, inf, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit
from scipy.stats import binomtest, t

from convscope.results.comparison import McNemar

Correct = NDArray[np.bool_]
"""Which predictions of each run are correct, bool [K, N]."""

LEVEL = 0.05
"""Highest rate of verdicts that name a better network although there is none, or the wrong one."""
POWER = 0.8
"""The probability of a verdict that `needed` plans for."""
DRAWS = 4000
"""Bootstrap draws; enough for a standard error within 1 %."""
FACTOR = 1000
"""Advice never asks for more than this many times the images or seeds."""


@dataclass(frozen=True)
class Variances:
    """The components of the variance of a difference of mean accuracies.

    Args:
        images: from drawing other images for the same runs.
        flips: the component of `images` that more seeds reduce: images predicted correctly by chance.
        seeds: from training with other seeds, beyond the flips of single images.
        raw: variance of a's and of b's mean over seeds, flips included, each with its degrees of freedom.
        assumed: in place of `seeds` where none was measured, with one run of each network. By our own convention
            other seeds change the accuracy of a network as much as drawing other images does.
    """

    images: float
    flips: float
    seeds: float
    raw: tuple[tuple[float, int], ...]
    assumed: float = 0.0

    @property
    def total(self) -> float:
        """Return the variance of the difference."""
        return self.images + self.seeds + self.assumed

    @property
    def degrees_of_freedom(self) -> float:
        """Return Satterthwaite's, as in Welch's t test: few if few seeds cause most of the variance."""
        loss = sum(variance**2 / freedom for variance, freedom in self.raw if freedom)
        return self.total**2 / loss if loss else inf


@dataclass(frozen=True)
class Difference:
    """The difference b - a of two mean accuracies; see `compare_correct`.

    Args:
        low, high: the interval, which together with those of the other pairs holds all true differences in 95 % of
            comparisons; within -1..1.
        p_value: of this pair alone. p_adjusted: for all pairs; below LEVEL if and only if the interval excludes 0.
    """

    value: float
    low: float
    high: float
    std_error: float
    degrees_of_freedom: float
    p_value: float
    p_adjusted: float
    variances: Variances


def compare_correct(a: Correct, b: Correct, *, pairs: int = 1, draws: int = DRAWS, seed: int = 0) -> Difference:
    """Return how much the accuracy of b exceeds that of a, with an interval over images and seeds.

    The standard error comes from a bootstrap that draws images and, for each network, seeds. Two corrections adapt it
    to few seeds. Seeds redrawn from K vary too little by a factor (K - 1) / K, and the flips of single images would
    count twice, with the images and with the seeds; so the drawn seed effects are scaled to the variance of the seeds
    alone. And the quantiles are Student's, with Satterthwaite's degrees of freedom. Half an image that only a predicts
    correctly and half an image that only b does are added to the sample, so that agreement on all images does not give
    certainty.

    With one run of one network, its seeds are assumed to vary like the other's; with one run of each, as much as images
    do (see `Variances`).

    Args:
        pairs: differences that the comparison looks at. Bonferroni's correction is used because, unlike step-down ones
            such as Holm's, it has simultaneous intervals that agree with it.

    Source: the degrees of freedom equal those of Welch's t test if images add no variance. A. Agresti and Y. Min,
    Statistics in Medicine 24 (2005) 729-740, add half an image to all four cells, agreement included. The tests show by
    simulation that the error rate of the whole is at most the nominal one.
    """
    value, n = float(b.mean() - a.mean()), a.shape[1]
    variances = split_variance(a, b)
    drawn = _draw_differences(a, b, variances.seeds, draws, np.random.default_rng(seed))
    error, freedom = sqrt(float(drawn.var(ddof=1)) + variances.assumed), variances.degrees_of_freedom
    margin = _margin(error, freedom, n=n, pairs=pairs)
    p_value = float(2 * t.sf(abs(value) / sqrt(error**2 + value**2 / n), freedom))
    low, high = max(-1.0, value - margin), min(1.0, value + margin)
    return Difference(value, low, high, error, freedom, p_value, min(1.0, pairs * p_value), variances)


def _margin(error: float, freedom: float, *, n: int, pairs: int) -> float:
    """Return half the width of the interval.

    A difference d is rejected if |value - d| exceeds the quantile times sqrt(error^2 + (value - d)^2 / n): under that
    hypothesis images vary around d.
    """
    quantile = _quantile(1 - LEVEL / 2 / pairs, freedom)
    return quantile * error / sqrt(1 - quantile**2 / n) if quantile**2 < n else inf


def split_variance(a: Correct, b: Correct) -> Variances:
    """Return unbiased components of the variance of mean(b) - mean(a), none below zero."""
    n = a.shape[1]
    if n == 1:
        return Variances(1.0, 0.0, 0.0, ())  # one image says nothing of others
    images = float((b.mean(axis=0) - a.mean(axis=0)).var(ddof=1)) / n
    known = [(*_seed_variances(correct), len(correct)) for correct in (a, b) if len(correct) > 1]
    if len(known) == 1:  # the other network has one run: its seeds are assumed to vary alike
        raw, flips, runs = known[0]
        factor = 1 + runs  # the variance of one run and of a mean of `runs`, relative to the latter
        return Variances(images, flips, max(0.0, raw - flips) * factor, ((raw * factor, runs - 1),))
    return Variances(
        images,
        sum(flips for _, flips, _ in known),
        sum(max(0.0, raw - flips) for raw, flips, _ in known),
        tuple((raw, runs - 1) for raw, _, runs in known),
        0.0 if known else sum(float(correct.mean() * (1 - correct.mean())) / n for correct in (a, b)),
    )


def _seed_variances(correct: Correct) -> tuple[float, float]:
    """Return the variance of a mean over K > 1 runs, and the share of it that flips of images explain."""
    runs, n = correct.shape
    values = correct.astype(float)
    of_run, of_image = values.mean(axis=1), values.mean(axis=0)
    left = values - of_run[:, None] - of_image + values.mean()
    return float(of_run.var(ddof=1)) / runs, float((left**2).sum()) / ((n - 1) * (runs - 1)) / (n * runs)


def _draw_differences(
    a: Correct, b: Correct, seeds: float, draws: int, random: np.random.Generator
) -> NDArray[np.float64]:
    """Return `draws` differences on images and seeds drawn with replacement.

    Images with the same difference are drawn together, as a count.
    """
    n, lead = a.shape[1], len(a) * len(b)
    leads, of_lead = np.unique(
        np.r_[b.sum(axis=0) * len(a) - a.sum(axis=0) * len(b), lead, -lead], return_inverse=True
    )  # the last two: always correct for b only, and for a only
    weights = np.bincount(of_lead, np.r_[np.ones(n), 0.5, 0.5])
    drawn = random.multinomial(n, weights / weights.sum(), draws) @ (leads / lead) / n
    seed_effects = np.zeros(draws)
    for correct, sign in ((a, -1), (b, 1)):
        accuracies = correct.mean(axis=1)
        chosen = random.integers(0, len(correct), (draws, len(correct)))
        seed_effects += sign * (accuracies[chosen].mean(axis=1) - accuracies.mean())
    expected = sum(float(correct.mean(axis=1).var()) / len(correct) for correct in (a, b))
    scale = sqrt(seeds / expected) if expected else 0.0
    return np.asarray(drawn + scale * seed_effects, dtype=np.float64)


# ---------------------------------------------------------------- other tests


def exact_mcnemar(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> tuple[int, int, float]:
    """Return how many images [N] only a and only b predict correctly, and McNemar's exact two-sided p value."""
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    discordant = only_a + only_b
    return only_a, only_b, float(binomtest(only_a, discordant).pvalue) if discordant else 1.0


def mcnemar_of_runs(a: Correct, b: Correct, seeds_a: Sequence[int], seeds_b: Sequence[int]) -> tuple[McNemar, ...]:
    """Return the exact McNemar test of the first runs, of the second runs, and so on."""
    return tuple(
        McNemar(seed_a, seed_b, *exact_mcnemar(*corrects))
        for seed_a, seed_b, corrects in zip(seeds_a, seeds_b, zip(a, b, strict=False), strict=False)
    )


# ---------------------------------------------------------------- what would settle an open question


@dataclass(frozen=True)
class Needed:
    """What would settle a difference as large as the measured one, with a probability of POWER.

    Args:
        images, seeds: additional test images alone, or seeds of each network alone; None: no number would.
        both: additional images and seeds together.
    """

    images: int | None
    seeds: int | None
    both: tuple[int, int] | None


def needed(difference: Difference, *, n: int, runs: int, pairs: int) -> Needed:
    """Return what would settle a difference between networks of `runs` runs each, one of `pairs` pairs, on n images.

    This is not a promise: the measured difference may be far from the true one.
    """
    factors = [float(factor) for factor in np.geomspace(1, FACTOR, 600)[1:]]
    by_seeds = [wanted / runs for wanted in range(runs + 1, min(FACTOR, FACTOR * runs) + 1)]
    seeds_known = bool(difference.variances.raw)

    def first(candidates: Sequence[tuple[float, float]]) -> tuple[int, int] | None:
        for images, seeds in candidates:
            if _settles(
                difference.value, _rescale(difference.variances, images, seeds), n=round(n * images), pairs=pairs
            ):
                return round(n * (images - 1)), ceil(runs * (seeds - 1) - 1e-9)
        return None

    images = first([(factor, 1.0) for factor in factors])
    seeds = first([(1.0, factor) for factor in by_seeds]) if seeds_known else None
    both = first([(factor, factor) for factor in by_seeds]) if seeds_known else None
    return Needed(images and images[0], seeds and seeds[1], both)


def _rescale(variances: Variances, images: float, seeds: float) -> Variances:
    """Return the variances to expect with `images` times the images and `seeds` times the seeds."""
    lasting, flips = variances.images - variances.flips, variances.flips
    return Variances(
        max(0.0, lasting) / images + flips / images / seeds,
        flips / images / seeds,
        variances.seeds / seeds,
        tuple(
            ((raw - min(raw, flips / len(variances.raw)) * (1 - 1 / images)) / seeds, round((df + 1) * seeds) - 1)
            for raw, df in variances.raw
        ),
        variances.assumed / images,
    )


def _settles(value: float, variances: Variances, *, n: int, pairs: int) -> bool:
    error = sqrt(variances.total)
    margin = _margin(error, variances.degrees_of_freedom, n=n, pairs=pairs)
    return abs(value) >= margin + _quantile(POWER, inf) * error


def _quantile(probability: float, freedom: float) -> float:
    """Return Student's quantile; the normal one for infinite degrees of freedom.

    scipy.stats takes a hundred times as long, and `needed` computes hundreds of them.
    """
    return float(ndtri(probability) if freedom == inf else stdtrit(freedom, probability))

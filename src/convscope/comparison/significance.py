"""Is one network better than another, or were the pictures and the seeds kind to it?

Letters: K runs (seeds) of a network, N test pictures.

What is asked is whether training network b gives a higher accuracy than training network a: on average over seeds, on
all pictures of the kind the test pictures are, with this training part. Two things vary. Which pictures were drawn for
the test is shared by all runs, so differences are taken picture by picture. How a run turns out depends on its seed,
and that hits all pictures of a run at once, so K runs of N pictures are not K * N observations.

A test over pictures alone (McNemar on one run each) takes the luck of two seeds for a property of the networks; a
t test over seeds alone takes the luck of one set of pictures for it. Both err far more often than they say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, inf, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit
from scipy.stats import binomtest, t

from convscope.results import McNemar

Right = NDArray[np.bool_]
"""Which pictures which run gets right, bool [K, N]."""

LEVEL = 0.05
"""A verdict names the better network where there is none, or the wrong one, at most this often."""
POWER = 0.8
"""The chance of a verdict for which `needed` counts."""
DRAWS = 4000
"""Bootstrap draws: they give the standard error to 1 %."""
FACTOR = 1000
"""More than so many times the pictures or seeds there are is no advice."""


@dataclass(frozen=True)
class Variances:
    """What the variance of a difference of mean accuracies is made of.

    Args:
        pictures: from drawing other pictures, the runs staying as they are.
        flips: the part of `pictures` that more seeds make smaller: right one time, wrong another, by chance.
        seeds: from training with other seeds, beyond the flips of single pictures.
        raw: of a's and b's mean over seeds as their runs scatter, flips included, each with its degrees of freedom.
    """

    pictures: float
    flips: float
    seeds: float
    raw: tuple[tuple[float, int], ...]

    @property
    def total(self) -> float:
        """Return the variance of the difference."""
        return self.pictures + self.seeds

    @property
    def degrees_of_freedom(self) -> float:
        """Return Satterthwaite's, as in Welch's t test: few, where few seeds are most of what is uncertain."""
        loss = sum(variance**2 / freedom for variance, freedom in self.raw if freedom)
        return self.total**2 / loss if loss else inf


@dataclass(frozen=True)
class Difference:
    """The difference b - a of two mean accuracies with its 95 % interval; see `compare_right`."""

    value: float
    low: float
    high: float
    std_error: float
    degrees_of_freedom: float
    p_value: float
    variances: Variances


def compare_right(a: Right, b: Right, *, draws: int = DRAWS, seed: int = 0) -> Difference:
    """Return how much more often b is right than a, with an interval over pictures and seeds.

    The standard error is that of a bootstrap that draws pictures and, for each network, seeds. Two corrections make it
    fit for few seeds. Seeds drawn anew from K vary by (K - 1) / K too little, and the flips of single pictures would
    count twice, with the pictures and with the seeds; so the deviations of the drawn seeds are scaled to the variance
    that is theirs alone. And the interval is Student's, with Satterthwaite's degrees of freedom. Half a picture that a
    alone gets right and half a one that b alone does are added to the drawn, so that no disagreement is not certainty.

    With one run of each the seeds' share is unknown: the interval is over pictures alone and the p value McNemar's.
    With one run of one network its seeds are taken to vary as the other's do.

    Source: the degrees of freedom are those of Welch's t test where pictures add nothing. A. Agresti and Y. Min,
    Statistics in Medicine 24 (2005) 729-740, add half a picture to all four kinds, those on which both agree included.
    That the rest errs no more often than it says is shown by simulation, in the tests.
    """
    value = float(b.mean() - a.mean())
    variances = split_variance(a, b)
    error = float(_draw_differences(a, b, variances.seeds, draws, np.random.default_rng(seed)).std(ddof=1))
    freedom = variances.degrees_of_freedom
    margin = error * _quantile(1 - LEVEL / 2, freedom)
    if len(a) == len(b) == 1:
        p_value = exact_mcnemar(a[0], b[0])[2]
    else:
        null_error = sqrt(error**2 + value**2 / a.shape[1])  # pictures vary about no difference, if there is none
        p_value = float(2 * t.sf(abs(value) / null_error, freedom))
    return Difference(value, value - margin, value + margin, error, freedom, p_value, variances)


def split_variance(a: Right, b: Right) -> Variances:
    """Return the unbiased components of the variance of mean(b) - mean(a), none below zero."""
    n = a.shape[1]
    pictures = float((b.mean(axis=0) - a.mean(axis=0)).var(ddof=1)) / n
    parts = [_seed_parts(right) for right in (a, b)]
    known = [(*part, len(right)) for part, right in zip(parts, (a, b), strict=True) if len(right) > 1]
    if len(known) == 1:  # one run of the other network: its seeds are taken to vary alike
        raw, flips, runs = known[0]
        share = 1 + runs  # of one run, beside the variance of a mean of `runs`
        return Variances(pictures, flips, max(0.0, raw - flips) * share, ((raw * share, runs - 1),))
    return Variances(
        pictures,
        sum(flips for _, flips, _ in known),
        sum(max(0.0, raw - flips) for raw, flips, _ in known),
        tuple((raw, runs - 1) for raw, _, runs in known),
    )


def _seed_parts(right: Right) -> tuple[float, float]:
    """Return the variance of a mean over K runs as the runs scatter, and the part that flips of pictures explain."""
    runs, n = right.shape
    if runs == 1:
        return 0.0, 0.0
    values = right.astype(float)
    of_run, of_picture = values.mean(axis=1), values.mean(axis=0)
    left = values - of_run[:, None] - of_picture + values.mean()
    return float(of_run.var(ddof=1)) / runs, float((left**2).sum()) / ((n - 1) * (runs - 1)) / (n * runs)


def _draw_differences(a: Right, b: Right, seeds: float, draws: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Return as many differences: on pictures drawn with replacement, plus seeds drawn with replacement.

    Pictures with the same difference are drawn together, by their number.
    """
    n, lead = a.shape[1], len(a) * len(b)
    leads, of_lead = np.unique(
        np.r_[b.sum(axis=0) * len(a) - a.sum(axis=0) * len(b), lead, -lead], return_inverse=True
    )  # the last two: b alone is always right, a alone is
    weights = np.bincount(of_lead, np.r_[np.ones(n), 0.5, 0.5])
    drawn = random.multinomial(n, weights / weights.sum(), draws) @ (leads / lead) / n
    deviations = np.zeros(draws)
    for right, sign in ((a, -1), (b, 1)):
        accuracies = right.mean(axis=1)
        chosen = random.integers(0, len(right), (draws, len(right)))
        deviations += sign * (accuracies[chosen].mean(axis=1) - accuracies.mean())
    expected = sum(float(right.mean(axis=1).var()) / len(right) for right in (a, b))
    scale = sqrt(seeds / expected) if expected else 0.0
    return np.asarray(drawn + scale * deviations, dtype=np.float64)


# ---------------------------------------------------------------- other tests


def exact_mcnemar(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> tuple[int, int, float]:
    """Return how many pictures [N] a alone gets right, b alone does, and McNemar's exact two-sided p value."""
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    discordant = only_a + only_b
    return only_a, only_b, float(binomtest(only_a, discordant).pvalue) if discordant else 1.0


def mcnemar_of_runs(a: Right, b: Right, seeds_a: Sequence[int], seeds_b: Sequence[int]) -> tuple[McNemar, ...]:
    """Return the exact McNemar test of the first run of each, of the second, and so on."""
    return tuple(
        McNemar(seed_a, seed_b, *exact_mcnemar(*rights))
        for seed_a, seed_b, rights in zip(seeds_a, seeds_b, zip(a, b, strict=False), strict=False)
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values adjusted for being the smallest of several.

    Source: Holm's step-down correction, as statsmodels' `multipletests(method="holm")` computes it.
    """
    order, adjusted, least = np.argsort(p_values, kind="stable"), [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = least
    return adjusted


def survives_seeds(a: Right, b: Right, difference: Difference) -> bool:
    """Say whether a difference of one run each is too large to be the work of their two seeds.

    How much seeds vary cannot be seen from one run; they are allowed to move the accuracy of a network as much as
    drawing other pictures does, which is a convention of ours and no measurement.
    """
    n = a.shape[1]
    allowance = sum(float(right.mean() * (1 - right.mean())) / n for right in (a, b))
    return abs(difference.value) > _quantile(1 - LEVEL / 2, inf) * sqrt(difference.std_error**2 + allowance)


# ---------------------------------------------------------------- what would settle it


@dataclass(frozen=True)
class Needed:
    """What would settle a difference as large as the measured one, with a chance of POWER.

    Args:
        pictures, seeds: so many more test pictures alone, or seeds of either network alone; None: no number would.
        both: so many more of either kind together.
    """

    pictures: int | None
    seeds: int | None
    both: tuple[int, int] | None


def needed(difference: Difference, *, n: int, runs: int, pairs: int) -> Needed:
    """Return what would settle a difference between networks of `runs` runs each, one of so many pairs, on n pictures.

    It is no promise: the measured difference may be far from the true one.
    """
    factors = [float(factor) for factor in np.geomspace(1, FACTOR, 600)[1:]]
    by_seeds = [wanted / runs for wanted in range(runs + 1, min(FACTOR, FACTOR * runs) + 1)]
    seeds_known = bool(difference.variances.raw)

    def first(candidates: Sequence[tuple[float, float]]) -> tuple[int, int] | None:
        for pictures, seeds in candidates:
            if _settles(difference.value, _rescale(difference.variances, pictures, seeds), pairs):
                return round(n * (pictures - 1)), ceil(runs * (seeds - 1) - 1e-9)
        return None

    pictures = first([(factor, 1.0) for factor in factors])
    seeds = first([(1.0, factor) for factor in by_seeds]) if seeds_known else None
    both = first([(factor, factor) for factor in by_seeds]) if seeds_known else None
    return Needed(pictures and pictures[0], seeds and seeds[1], both)


def _rescale(variances: Variances, pictures: float, seeds: float) -> Variances:
    """Return the variances to expect with so many times the pictures and so many times the seeds."""
    lasting, flips = variances.pictures - variances.flips, variances.flips
    return Variances(
        max(0.0, lasting) / pictures + flips / pictures / seeds,
        flips / pictures / seeds,
        variances.seeds / seeds,
        tuple(
            ((raw - min(raw, flips / len(variances.raw)) * (1 - 1 / pictures)) / seeds, round((df + 1) * seeds) - 1)
            for raw, df in variances.raw
        ),
    )


def _settles(value: float, variances: Variances, pairs: int) -> bool:
    quantile = _quantile(1 - LEVEL / 2 / pairs, variances.degrees_of_freedom) + _quantile(POWER, inf)
    return abs(value) >= quantile * sqrt(variances.total)


def _quantile(probability: float, freedom: float) -> float:
    """Return Student's quantile, the normal one for endless degrees of freedom.

    scipy.stats gives the same a hundred times slower, and `needed` asks for hundreds.
    """
    return float(ndtri(probability) if freedom == inf else stdtrit(freedom, probability))

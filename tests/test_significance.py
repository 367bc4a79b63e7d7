"""Verdicts err at most at the nominal rate: against simulations, statsmodels and hand counts."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import numpy as np
import pytest
from scipy.stats import binom, norm, ttest_ind
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestIndPower
from statsmodels.stats.proportion import proportion_confint

from convscope.comparison.significance import (
    LEVEL,
    Correct,
    Difference,
    Variances,
    compare_correct,
    exact_mcnemar,
    needed,
    split_variance,
)
from convscope.results.run import mean_accuracy_of


def draw_runs(
    random: np.random.Generator, ease: np.ndarray, *, runs: int, seed_std: float, lead: float = 0.0
) -> Correct:
    """Return the correct predictions of some runs of one network, bool [K, N].

    Each image has its own ease, a seed shifts all images of a run, and each image flips its own coin.
    """
    shift = lead + seed_std * random.standard_normal((runs, 1))
    return np.asarray(random.random((runs, len(ease))) < norm.cdf(ease + shift))


def draw_pair(
    random: np.random.Generator, *, runs: tuple[int, int], n: int = 500, seeds: float = 0.0, same_images: bool = True,
    centre: float = 2.0, lead: float = 0.0,
) -> tuple[Correct, Correct]:  # fmt: skip
    """Return the runs of two networks; if not `same_images`, other images are easy for b."""
    ease_a = centre + random.standard_normal(n)
    ease_b = ease_a if same_images else centre + random.standard_normal(n)
    return (
        draw_runs(random, ease_a, runs=runs[0], seed_std=seeds),
        draw_runs(random, ease_b, runs=runs[1], seed_std=seeds, lead=lead),
    )


def rate(found: Callable[[Correct, Correct], bool], *, trials: int, seed: int = 0, **pair: object) -> float:
    random = np.random.default_rng(seed)
    return sum(found(*draw_pair(random, **pair)) for _ in range(trials)) / trials  # type: ignore[arg-type]


def most_allowed(trials: int) -> float:
    """Return the error rate that a test with LEVEL exceeds in one of a thousand simulations."""
    return float(binom.isf(0.001, trials, LEVEL)) / trials


TRIALS, DRAWS = 400, 400


@pytest.mark.parametrize("runs", [(2, 2), (3, 3), (5, 5), (1, 3)])
@pytest.mark.parametrize(("seeds", "same_images"), [(0.0, False), (0.1, True), (0.3, True)])
def test_equal_networks_are_rarely_told_apart(runs: tuple[int, int], seeds: float, same_images: bool) -> None:
    wrong = rate(
        lambda a, b: compare_correct(a, b, draws=DRAWS).p_value < LEVEL,
        trials=TRIALS,
        runs=runs,
        seeds=seeds,
        same_images=same_images,
    )
    assert wrong <= most_allowed(TRIALS)


def test_simpler_tests_err_more_often() -> None:
    """The simulation can fail a test: it rejects McNemar on one run of each, and a t test over seeds."""
    single = rate(lambda a, b: exact_mcnemar(a[0], b[0])[2] < LEVEL, trials=TRIALS, runs=(1, 1), seeds=0.3)
    assert single > 2 * LEVEL

    def over_seeds(a: Correct, b: Correct) -> bool:
        return bool(ttest_ind(a.mean(axis=1), b.mean(axis=1)).pvalue < LEVEL)

    assert rate(over_seeds, trials=TRIALS, runs=(5, 5), seeds=0.0, same_images=False) > most_allowed(TRIALS)


def test_one_run_of_each_allows_for_seeds_that_move_as_much_as_images() -> None:
    n, centre = 500, 1.2

    def found(a: Correct, b: Correct) -> bool:
        return compare_correct(a, b, draws=DRAWS).p_value < LEVEL

    share = norm.cdf(centre / sqrt(2))
    std = sqrt(share * (1 - share) / n) * sqrt(2) / norm.pdf(centre / sqrt(2))  # in units of ease
    wrong = rate(found, trials=TRIALS, runs=(1, 1), n=n, centre=centre, seeds=float(std))
    assert wrong <= most_allowed(TRIALS)
    assert rate(found, trials=100, runs=(1, 1), n=n, centre=centre, lead=1.0) == 1


@pytest.mark.parametrize("seeds", [0.0, 0.2])
def test_any_pair_of_three_equal_networks_is_rarely_told_apart(seeds: float) -> None:
    random, wrong = np.random.default_rng(0), 0
    for _ in range(300):
        ease = 2.0 + random.standard_normal(500)
        a, b, c = (draw_runs(random, ease, runs=3, seed_std=seeds) for _ in range(3))
        wrong += any(
            compare_correct(*pair, pairs=3, draws=DRAWS).p_adjusted < LEVEL for pair in ((a, b), (a, c), (b, c))
        )
    assert wrong / 300 <= most_allowed(300)


def test_the_intervals_of_all_pairs_hold_together() -> None:
    """Three networks of which one is better: in 95 % of comparisons no interval misses its true difference."""
    leads, seeds, missed, trials = (0.0, 0.0, 0.4), 0.2, 0, 300
    random, spread = np.random.default_rng(1), sqrt(1 + 1 + seeds**2)
    true = [norm.cdf((2.0 + lead) / spread) for lead in leads]
    for _ in range(trials):
        ease = 2.0 + random.standard_normal(500)
        runs = [draw_runs(random, ease, runs=3, seed_std=seeds, lead=lead) for lead in leads]
        found = {pair: compare_correct(*(runs[i] for i in pair), pairs=3, draws=DRAWS) for pair in PAIRS_OF_THREE}
        missed += not all(found[i, j].low <= true[j] - true[i] <= found[i, j].high for i, j in PAIRS_OF_THREE)
    assert missed / trials <= most_allowed(trials)


PAIRS_OF_THREE = ((0, 1), (0, 2), (1, 2))


def test_a_verdict_and_its_interval_never_contradict_each_other() -> None:
    """Over random tables, many of them near the line: p below the level if and only if the interval excludes 0."""
    random, outcomes = np.random.default_rng(0), {True: 0, False: 0}
    for _ in range(400):
        n, pairs = int(random.integers(1, 300)), int(random.integers(1, 40))
        runs = (1, 1) if random.random() < 0.4 else tuple(random.integers(1, 6, 2).tolist())
        share = random.random(2) if random.random() < 0.5 else np.clip(random.random() + random.normal(0, 0.1, 2), 0, 1)
        a, b = (random.random((k, n)) < p for k, p in zip(runs, share, strict=True))
        found = compare_correct(a, b, pairs=pairs, draws=100)
        excludes = found.low > 0 or found.high < 0
        assert excludes == (found.p_adjusted < LEVEL)
        assert -1 <= found.low <= found.value <= found.high <= 1
        outcomes[excludes] += 1
    assert min(outcomes.values()) > 50


def test_p_values_for_all_pairs_are_bonferronis_as_in_statsmodels() -> None:
    random = np.random.default_rng(0)
    found = [compare_correct(*draw_pair(random, runs=(2, 2), lead=0.1 * i), pairs=5, draws=DRAWS) for i in range(5)]
    expected = multipletests([each.p_value for each in found], method="bonferroni")[1]
    assert [each.p_adjusted for each in found] == pytest.approx(expected)


@pytest.mark.parametrize(("runs", "seeds"), [((3, 3), 0.0), ((3, 3), 0.2), ((1, 1), 0.0)])
def test_the_interval_holds_the_true_difference(runs: tuple[int, int], seeds: float) -> None:
    lead, spread = 0.3, sqrt(1 + 1 + seeds**2)  # of the coin, the ease and the seed
    true = norm.cdf((2.0 + lead) / spread) - norm.cdf(2.0 / spread)

    def misses(a: Correct, b: Correct) -> bool:
        difference = compare_correct(a, b, draws=DRAWS)
        return not difference.low <= true <= difference.high

    assert rate(misses, trials=TRIALS, runs=runs, seeds=seeds, lead=lead) <= most_allowed(TRIALS)


def test_components_add_up_to_the_variance_of_the_difference() -> None:
    random = np.random.default_rng(0)
    pairs = [draw_pair(random, runs=(3, 4), seeds=0.3, same_images=False) for _ in range(2000)]
    true = np.var([b.mean() - a.mean() for a, b in pairs])
    parts = [split_variance(a, b) for a, b in pairs]
    assert np.mean([split.total for split in parts]) == pytest.approx(true, rel=0.1)


@pytest.mark.parametrize("runs", [(1, 1), (3, 3), (2, 5)])
def test_the_bootstrap_agrees_with_the_components(runs: tuple[int, int]) -> None:
    a, b = draw_pair(np.random.default_rng(3), runs=runs, n=3000, seeds=0.3, same_images=False)
    expected = sqrt(split_variance(a, b).total)
    assert compare_correct(a, b).std_error == pytest.approx(expected, rel=0.04)


def test_agreement_on_all_images_does_not_give_certainty() -> None:
    correct = np.ones((2, 50), bool)
    same = compare_correct(correct, correct)
    assert (same.value, same.p_value) == (0, 1)
    assert same.low < 0 < same.high
    few = compare_correct(~correct[:, :3], correct[:, :3])
    assert few.p_value > LEVEL


def test_degrees_of_freedom_are_those_of_welch_where_images_add_nothing() -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(size=3), 4 * random.normal(size=5)
    raw = tuple((float(values.var(ddof=1)) / len(values), len(values) - 1) for values in (a, b))
    variances = Variances(0.0, 0.0, raw[0][0] + raw[1][0], raw)
    assert variances.degrees_of_freedom == pytest.approx(ttest_ind(a, b, equal_var=False).df)


def test_mcnemar_equals_the_exact_test_of_statsmodels() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        (a,), (b,) = draw_pair(random, runs=(1, 1), n=200, same_images=False, centre=1.0)
        only_a, only_b, p_value = exact_mcnemar(a, b)
        table = [[int((a & b).sum()), only_a], [only_b, int((~a & ~b).sum())]]
        assert p_value == pytest.approx(mcnemar(table, exact=True).pvalue)
    assert exact_mcnemar(a, a) == (0, 0, 1.0)


def test_the_interval_of_a_mean_accuracy_is_that_of_a_fraction_of_the_images() -> None:
    mean = mean_accuracy_of(correct=[97, 98, 98], n=100)
    low, high = proportion_confint(293 / 3, 100, method="wilson")
    assert (mean.value, mean.low, mean.high) == pytest.approx((293 / 300, low, high))
    assert (mean.correct, mean.n) == (98, 100)


def test_images_needed_are_those_of_the_textbook() -> None:
    """One run of each: the sample size for a paired difference is (z_alpha/2 + z_beta)^2 * variance / difference^2.

    The variance has that of the images of each network in it once more, for the seeds.
    """
    a, b = draw_pair(np.random.default_rng(1), runs=(1, 1), n=1000, same_images=False, lead=0.1)
    difference = compare_correct(a, b)
    variance = float((b[0].astype(float) - a[0]).var(ddof=1)) + sum(float(each.var()) for each in (a, b))
    wanted = (norm.isf(0.05 / 2 / 3) + norm.isf(0.2)) ** 2 * variance / difference.value**2
    more = needed(difference, n=1000, runs=1, pairs=3)
    assert more.images is not None
    assert more.images + 1000 == pytest.approx(wanted, rel=0.03)
    assert more.seeds is None


def test_seeds_needed_are_those_of_a_t_test() -> None:
    """Where images add nothing, the runs are two samples of accuracies."""
    std, runs, value = 0.01, 3, 0.012
    raw = std**2 / runs
    variances = Variances(0.0, 0.0, 2 * raw, ((raw, runs - 1), (raw, runs - 1)))
    difference = Difference(value, 0, 0, sqrt(2 * raw), 4, 1, 1, variances)
    more = needed(difference, n=1000, runs=runs, pairs=1)
    wanted = TTestIndPower().solve_power(effect_size=value / std, alpha=0.05, power=0.8)
    assert more.images is None
    assert more.seeds is not None
    assert more.seeds + runs == pytest.approx(wanted, abs=1)

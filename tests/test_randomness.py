from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from convscope.seeds import derive_seed, permutation, uniform


def test_words_are_kept_apart() -> None:
    seeds = {derive_seed(1, "a"), derive_seed("1", "a"), derive_seed("1a"), derive_seed(1, "b"), derive_seed("a", 1)}
    assert len(seeds) == 5


@given(st.integers(0, 300), st.integers(0, 5))
def test_a_permutation_holds_each_index_once(n: int, seed: int) -> None:
    assert sorted(permutation(n, seed)) == list(range(n))


def test_numbers_are_uniform_and_unrelated() -> None:
    indices = np.arange(100_000)
    first, second = uniform(indices, 0, "a"), uniform(indices, 0, "b")
    assert stats.kstest(first, "uniform").pvalue > 0.001
    assert first.min() >= 0
    assert first.max() < 1
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.01
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.01


def test_a_number_does_not_depend_on_its_neighbours() -> None:
    indices = np.array([5, 17, 3])
    assert np.array_equal(uniform(indices, 0, 7), uniform(np.arange(20), 0, 7)[indices])

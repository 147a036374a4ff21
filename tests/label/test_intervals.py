"""Intervals hold the truth about as often as they say."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from raylab.label.intervals import Judged, stratified, weighted, wilson


@given(st.integers(1, 500), st.integers(0, 500), st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_is_scipys(n: int, k: int, level: float) -> None:
    k = min(k, n)
    expected = binomtest(k, n).proportion_ci(level, method="wilson")
    assert wilson(k / n, n, level) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_nothing_known_is_all_possible_and_everything_known_is_certain() -> None:
    assert wilson(0.5, 0) == (0.0, 1.0)
    assert wilson(0.5, math.inf) == (0.5, 0.5)
    assert stratified([]) is None
    assert stratified([Judged(100, 0, 0)]) is None
    assert weighted([], []) is None
    whole = stratified([Judged(10, 10, 9), Judged(30, 30, 30)])
    assert whole is not None
    assert (whole.share, whole.low, whole.high) == pytest.approx((39 / 40,) * 3)


def test_one_large_stratum_is_a_simple_sample() -> None:
    found = stratified([Judged(10**9, 80, 60)])
    assert found is not None
    assert (found.low, found.high) == pytest.approx(wilson(0.75, 80), abs=1e-6)
    equal = weighted([True] * 60 + [False] * 20, [7.0] * 80)
    assert equal is not None
    assert (equal.share, equal.low, equal.high) == pytest.approx((0.75, *wilson(0.75, 80)))


def test_a_stratum_without_judged_rows_is_left_out() -> None:
    assert stratified([Judged(10, 5, 5), Judged(1000, 0, 0)]) == stratified([Judged(10, 5, 5)])


WORLDS = {
    "plain": [(2000, 0.9, 100)],
    "confidence bins": [(1000, 0.5, 40), (2000, 0.8, 40), (3000, 0.93, 40), (4000, 0.99, 40)],
    "nearly all right": [(5000, 0.97, 30), (5000, 0.99, 30), (5000, 0.995, 30)],
    "few a stratum": [(400, share, 8) for share in np.linspace(0.55, 0.98, 20)],
    "small run": [(60, 0.7, 30), (60, 0.9, 30), (60, 0.95, 30)],
    "most weight, few rows": [(9000, 0.9, 25), (500, 0.5, 60), (500, 0.7, 60)],
    "few rows, all alike": [(1000, 0.9, 10)] * 4,
}
"""Strata: rows, share of right ones, rows drawn."""


@pytest.mark.parametrize("name", WORLDS)
def test_the_interval_holds_the_truth_about_as_often_as_it_says(name: str) -> None:
    random = np.random.default_rng(5)
    strata = WORLDS[name]
    rights = [round(size * share) for size, share, _ in strata]
    truth = sum(rights) / sum(size for size, *_ in strata)
    held, rounds = 0, 1500
    for _ in range(rounds):
        drawn = [int(random.hypergeometric(good, size - good, n)) for good, (size, _, n) in zip(rights, strata)]
        found = stratified([Judged(size, n, k) for (size, _, n), k in zip(strata, drawn)])
        assert found is not None
        held += found.low <= truth <= found.high
    assert 0.935 <= held / rounds <= 0.985

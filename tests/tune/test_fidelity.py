"""A proxy's ranking against the full one, by hand."""

from __future__ import annotations

import math

import pytest

from raylab.tune.fidelity import between, correlation, of_looks
from raylab.tune.results import Objective, TrialResult

SCORE = Objective("score")


def trial(number: int, scores: list[float], status: str = "finished") -> TrialResult:
    points = [{"step": float(10 * (i + 1)), "score": score} for i, score in enumerate(scores)]
    return TrialResult(str(number), number, {"rate": number}, status, "", points, "")


def test_looks_are_compared_with_the_end() -> None:
    order = [(0.1, 0.1, 1), (0.2, 0.3, 2), (0.3, 0.2, 3), (0.4, 0.5, 4), (0.5, 0.4, 5)]
    trials = [trial(i, list(scores)) for i, scores in enumerate(order)] + [trial(9, [9.0], "stopped")]
    assert of_looks(trials, SCORE) == pytest.approx(
        {10: 1.0, 20: 0.8}
    )  # two neighbours changed places twice: 1 - 6 * 4 / (5 * 24)
    assert of_looks(trials[:4], SCORE) == {}


def test_a_smaller_sweep_is_compared_by_values() -> None:
    full = [trial(i, [i]) for i in range(5)]
    proxy = [trial(i, [-i]) for i in (4, 2, 0)] + [trial(1, [100], "failed"), trial(7, [3])]
    assert between(proxy, full, SCORE) == (-1.0, 3)


def test_what_ranks_nothing_has_no_correlation() -> None:
    assert math.isnan(correlation([1, 1, 1], [1, 2, 3]))
    assert math.isnan(correlation([1], [1]))

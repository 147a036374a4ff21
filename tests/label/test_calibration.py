"""Whether scores mean what they say."""

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss

from raylab.label.calibration import Scored, calibration, threshold_for


def made(n: int, seed: int = 1, *, honest: bool = True) -> Scored:
    random = np.random.default_rng(seed)
    scores = random.random(n)
    right = random.random(n) < (scores if honest else scores**3)
    return Scored(scores, right, np.ones(n))


def test_an_honest_score_is_calibrated_and_a_boastful_one_is_not() -> None:
    honest, boastful = calibration(made(20_000)), calibration(made(20_000, honest=False))
    assert honest["ece"] < 0.02
    assert boastful["ece"] > 0.15
    assert honest["brier"] == pytest.approx(1 / 6, abs=0.01)
    assert [one["low"] for one in honest["bins"]] == pytest.approx([n / 10 for n in range(10)])
    assert all(abs(one["score"] - one["right"]) < 0.05 for one in honest["bins"])


def test_weights_stand_for_rows() -> None:
    scored = made(300)
    times = np.random.default_rng(0).integers(1, 5, 300)
    heavy = calibration(Scored(scored.scores, scored.right, times.astype(float)))
    repeated = calibration(
        Scored(np.repeat(scored.scores, times), np.repeat(scored.right, times), np.ones(times.sum()))
    )
    for key in ("brier", "ece"):
        assert heavy[key] == pytest.approx(repeated[key], abs=1e-6)
    assert heavy["brier"] == pytest.approx(brier_score_loss(scored.right, scored.scores, sample_weight=times), abs=1e-6)


def test_nothing_judged_is_null_and_ends_belong_to_a_bin() -> None:
    assert calibration(Scored(np.zeros(0), np.zeros(0, bool), np.zeros(0))) == {
        "judged": 0,
        "brier": None,
        "ece": None,
        "bins": [],
    }
    ends = calibration(Scored(np.array([0.0, 1.0]), np.array([False, True]), np.ones(2)))
    assert (ends["ece"], ends["brier"], [one["high"] for one in ends["bins"]]) == (0, 0, [0.1, 1.0])


def test_the_threshold_is_the_lowest_that_gives_the_precision() -> None:
    scores = np.linspace(1, 0, 400)
    right = scores > 0.5
    scored = Scored(scores, right, np.ones(400))
    plain, sure = threshold_for(scored, 0.95, sure=False), threshold_for(scored, 0.95)
    assert plain is not None
    assert sure is not None
    kept = scores >= plain.threshold
    assert right[kept].mean() >= 0.95 > right[scores >= scores[kept.sum()]].mean()
    assert plain.coverage == pytest.approx(kept.mean())
    assert sure.threshold > plain.threshold
    assert sure.precision.low >= 0.95
    assert threshold_for(Scored(scores, ~right, np.ones(400)), 0.99) is None


def test_equal_scores_stand_or_fall_together() -> None:
    scored = Scored(np.array([0.9, 0.5, 0.5]), np.array([True, True, False]), np.ones(3))
    found = threshold_for(scored, 0.9, sure=False)
    assert found is not None
    assert (found.threshold, found.coverage) == (0.9, pytest.approx(1 / 3))


def test_a_sure_threshold_keeps_its_promise() -> None:
    kept = 0
    fine = np.linspace(0, 1, 100_001)
    for seed in range(200):
        found = threshold_for(made(400, seed), 0.8)
        if found is None:
            continue
        kept += fine[fine >= found.threshold].mean() >= 0.8
    assert kept >= 180

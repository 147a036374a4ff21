"""Intersection over union, against sets of pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest

from raylab.errors import RaylabError
from raylab.evaluate.segmentation import IGNORE, MaskCounts

NAMES = ("background", "flag", "object", "nowhere")


def test_iou_is_that_of_sets_of_pixels_of_all_pictures() -> None:
    draw = np.random.default_rng(0)
    pairs = [(draw.integers(0, 3, (9, 7)), draw.choice([0, 1, 2, IGNORE], (9, 7))) for _ in range(4)]
    counts = MaskCounts(NAMES)
    for said, true in pairs:
        counts.add(said.astype(np.uint8), true.astype(np.uint8))
    said, true = (np.concatenate([pair[side].ravel() for pair in pairs]) for side in (0, 1))
    said, true = said[true != IGNORE], true[true != IGNORE]
    expected = [((said == c) & (true == c)).sum() / ((said == c) | (true == c)).sum() for c in range(3)]
    scores = counts.scores()
    assert [scores[f"iou/{name}"] for name in NAMES[:3]] == pytest.approx(expected)
    assert scores["miou"] == pytest.approx(np.mean(expected))  # a class that is nowhere does not count
    assert scores["pixel_accuracy"] == pytest.approx((said == true).mean())
    assert "iou/nowhere" not in scores and math.isnan(counts.iou_C[3])


def test_a_class_that_is_said_and_never_true_counts_as_zero() -> None:
    counts = MaskCounts(NAMES[:2])
    counts.add(np.array([[0, 1]]), np.array([[0, 0]]))
    assert counts.scores()["iou/flag"] == 0.0
    assert counts.scores()["miou"] == pytest.approx(0.25)


def test_masks_that_make_no_sense_are_refused() -> None:
    counts = MaskCounts(NAMES)
    with pytest.raises(RaylabError, match="different shapes"):
        counts.add(np.zeros((2, 2)), np.zeros((2, 3)))
    with pytest.raises(RaylabError, match=r"true holds 9\.\.9: 4 classes"):
        counts.add(np.zeros((1, 1)), np.full((1, 1), 9))
    with pytest.raises(RaylabError, match="said holds 255"):
        counts.add(np.full((1, 1), IGNORE), np.zeros((1, 1)))
    counts.add(np.zeros((2, 2)), np.full((2, 2), IGNORE))
    with pytest.raises(RaylabError, match="all of them are ignored"):
        counts.scores()

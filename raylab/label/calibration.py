"""Whether scores mean what they say: reliability, calibration error, and the threshold for a wanted precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from raylab.label.intervals import Estimate, weighted

BINS = 10
"""Of equal width, from 0 to 1."""


@dataclass(frozen=True)
class Scored:
    """Judged labels with a score."""

    scores: np.ndarray
    """float64 [n], 0..1."""
    right: np.ndarray
    """bool [n]."""
    weights: np.ndarray
    """float64 [n]: how many labels of the run each stands for."""

    @staticmethod
    def of_histogram(edges: np.ndarray, right: np.ndarray, wrong: np.ndarray) -> Scored:
        """Return all labels of a run from the counts in fine bins [n], two entries a bin."""
        middle = (edges[:-1] + edges[1:]) / 2
        both = np.concatenate([np.ones(len(middle), bool), np.zeros(len(middle), bool)])
        weights = np.concatenate([right, wrong]).astype(float)
        kept = weights > 0
        return Scored(np.concatenate([middle, middle])[kept], both[kept], weights[kept])


def calibration(scored: Scored, *, whole: bool = False) -> dict[str, Any]:
    """Compare scores with how often labels are right.

    Args:
        scored: judged labels.
        whole: weights count judged labels, as those of a histogram do.

    Returns:
        ``judged``; ``brier``, the mean square of score minus right, and ``ece``, the expected calibration error: the
        mean distance of a bin's score from its share of right labels, both weighted to the run; ``bins``, those with
        labels, each ``{"low", "high", "judged", "share", "score", "right"}``: its share of the labels, their mean score
        and how many of them are right. Numbers are null without any label.
    """
    total = float(scored.weights.sum())
    if not total:
        return {"judged": 0, "brier": None, "ece": None, "bins": []}
    place = np.minimum((np.clip(scored.scores, 0, 1) * BINS).astype(int), BINS - 1)
    counts = scored.weights if whole else np.ones(len(place))
    bins = [_bin(scored, place == number, number, counts) for number in np.unique(place).tolist()]
    return {
        "judged": round(float(counts.sum())),
        "brier": round(float(np.average((scored.scores - scored.right) ** 2, weights=scored.weights)), 6),
        "ece": round(sum(one["share"] * abs(one["score"] - one["right"]) for one in bins), 6),
        "bins": bins,
    }


def _bin(scored: Scored, mine: np.ndarray, number: int, counts: np.ndarray) -> dict[str, Any]:
    weights = scored.weights[mine]
    return {
        "low": number / BINS,
        "high": (number + 1) / BINS,
        "judged": round(float(counts[mine].sum())),
        "share": round(float(weights.sum() / scored.weights.sum()), 6),
        "score": round(float(np.average(scored.scores[mine], weights=weights)), 6),
        "right": round(float(np.average(scored.right[mine], weights=weights)), 6),
    }


@dataclass(frozen=True)
class Threshold:
    """Where to abstain."""

    threshold: float
    """Labels with this score or a higher one are kept."""
    coverage: float
    """Their share of the labels that were judged, weighted to the run."""
    precision: Estimate


def threshold_for(scored: Scored, precision: float, *, sure: bool = True) -> Threshold | None:
    """Return the lowest threshold that gives a wanted precision.

    Args:
        scored: judged labels.
        precision: what is wanted, 0..1.
        sure: take the lower end of the 95 % interval to reach it, instead of the estimate itself. The interval is that
            of one threshold: having looked at all of them, the one found holds a little less often than it says.

    Returns:
        None where no threshold gives it.
    """
    order = np.argsort(-scored.scores, kind="stable")
    scores, right, weights = scored.scores[order], scored.right[order], scored.weights[order]
    found = None
    for last in np.flatnonzero(np.diff(scores, append=-np.inf)).tolist():
        estimate = weighted(right[: last + 1].tolist(), weights[: last + 1].tolist())
        if estimate is not None and (estimate.low if sure else estimate.share) >= precision:
            coverage = float(weights[: last + 1].sum() / weights.sum())
            found = Threshold(float(scores[last]), coverage, estimate)
    return found

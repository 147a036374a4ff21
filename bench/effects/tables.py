"""Scores and gains over seeds, as the scripts of this folder print and keep them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import mean, stdev
from typing import Any

Scores = dict[str, dict[str, float]]
"""Of one seed: arm -> metric -> value."""
Gains = Callable[[Scores], dict[str, float]]
"""From a seed's scores to each claim's difference, in points."""
Asked = Callable[[str], float | None]
"""The points that a claim wants; None: it is reported."""


def table(found: Sequence[Scores], gains: Gains, asked: Asked) -> str:
    """Return scores and gains, mean and deviation over the seeds."""
    lines = [f"{'score':<62}{'mean':>8}{'deviation':>11}"]
    for arm, metrics in found[0].items():
        for metric in metrics:
            values = [100 * scores[arm][metric] for scores in found]
            lines.append(f"{arm + ' ' + metric:<62}{mean(values):>8.1f}{_deviation(values):>11.1f}")
    lines.append(f"\n{'gain':<62}{'mean':>8}{'deviation':>11}{'asked':>8}")
    for claim, values in _values(found, gains).items():
        said = "" if (wanted := asked(claim)) is None else f"{wanted:.1f}"
        lines.append(f"{claim:<62}{mean(values):>8.1f}{_deviation(values):>11.1f}{said:>8}")
    return "\n".join(lines)


def summary(found: Sequence[Scores], gains: Gains, asked: Asked) -> dict[str, dict[str, Any]]:
    """Return each claim's mean, its deviation, and what is asked."""
    values = _values(found, gains)
    return {
        "gains": {claim: mean(one) for claim, one in values.items()},
        "deviations": {claim: _deviation(one) for claim, one in values.items()},
        "asked": {claim: asked(claim) for claim in values},
    }


def _values(found: Sequence[Scores], gains: Gains) -> dict[str, list[float]]:
    return {claim: [gains(scores)[claim] for scores in found] for claim in gains(found[0])}


def _deviation(values: Sequence[float]) -> float:
    return stdev(values) if len(values) > 1 else 0.0

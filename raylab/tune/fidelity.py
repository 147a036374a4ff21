"""How well a cheap proxy ranks trials: Spearman's rho with the ranking of full runs (arXiv 1809.04184, section 5.3)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from raylab.tune.results import Objective, TrialResult

FEWEST = 5
"""Trials of which a rank correlation says anything."""


def of_looks(trials: Sequence[TrialResult], objective: Objective) -> dict[int, float]:
    """Return for each look but the last its step and how its ranking agrees with the last one's: training cut short.

    Trials that finished count. Empty where they are fewer than `FEWEST`.
    """
    whole = [trial for trial in trials if trial.status == "finished"]
    if len(whole) < FEWEST:
        return {}
    last = [trial.value(objective) for trial in whole]
    steps = [int(point["step"]) for point in whole[0].points[:-1]]
    at = {step: [_value_at(trial, step, objective) for trial in whole] for step in steps}
    return {step: rho for step, values in at.items() if not math.isnan(rho := correlation(values, last))}


def between(proxy: Sequence[TrialResult], full: Sequence[TrialResult], objective: Objective) -> tuple[float, int]:
    """Return how a cheaper sweep's ranking agrees with a full one's, and by how many trials: those with equal values.

    Args:
        proxy: trials of the cheaper sweep, at their last look.
        full: those of the other.
        objective: of both.
    """
    cheap = {_key(trial.values): trial.value(objective) for trial in proxy if trial.status == "finished"}
    pairs = [
        (cheap[_key(trial.values)], trial.value(objective))
        for trial in full
        if trial.status == "finished" and _key(trial.values) in cheap
    ]
    return correlation([one for one, _ in pairs], [other for _, other in pairs]), len(pairs)


def correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Return Spearman's rho; nan where either ranks nothing."""
    from scipy.stats import spearmanr

    if len(one) < 2 or len(set(one)) == 1 or len(set(other)) == 1:
        return math.nan
    return float(spearmanr(one, other).statistic)


def _value_at(trial: TrialResult, step: int, objective: Objective) -> float:
    return next((point[objective.name] for point in trial.points if point["step"] == step), math.nan)


def _key(values: Mapping[str, Any]) -> str:
    return json.dumps(dict(values), sort_keys=True)

"""How far an estimated share may be off: confidence intervals for simple and for stratified samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.95
"""Of all intervals that are reported."""


@dataclass(frozen=True)
class Estimate:
    """A share and its confidence interval, each 0..1."""

    share: float
    low: float
    high: float


@dataclass(frozen=True)
class Judged:
    """What is known of one stratum."""

    size: int
    """Rows of the run that belong to it."""
    judged: int
    """Those of them, drawn at random, that were judged; not more than `size`."""
    right: int
    """Those of the judged that are right."""


def wilson(share: float, n: float, level: float = LEVEL) -> tuple[float, float]:
    """Return Wilson's score interval of a share.

    Args:
        share: 0..1, as observed.
        n: observations; need not be whole, and infinite where nothing is left to chance.
        level: how often such an interval is to hold the truth, 0..1.

    Returns:
        (0, 1) without any observation.
    """
    from scipy.stats import norm

    if n <= 0:
        return 0.0, 1.0
    if math.isinf(n):
        return share, share
    z = float(norm.ppf((1 + level) / 2))
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - reach), min(1.0, middle + reach)


def stratified(strata: Sequence[Judged], level: float = LEVEL) -> Estimate | None:
    """Estimate the share of right rows in a run from a stratified sample.

    The interval is Wilson's for the number of rows that a simple sample would need to be as sure. Its variance is the
    stratified one with correction for strata that are sampled whole. A stratum whose few judged rows all agree is not
    taken to be certain: as in Wilson's interval, z^2/2 right and z^2/2 wrong rows are added to each for the variance,
    though not for the share (our choice: with less, intervals miss where one large stratum has few judged rows).

    Args:
        strata: those without a judged row are left out, as if the run did not have them.
        level: how often such an interval is to hold the truth, 0..1.

    Returns:
        None where no row was judged.
    """
    from scipy.stats import norm

    known = [one for one in strata if one.judged]
    total = sum(one.size for one in known)
    if not total:
        return None
    weights = [one.size / total for one in known]
    share = min(1.0, math.fsum(w * one.right / one.judged for w, one in zip(weights, known)))
    added = float(norm.ppf((1 + level) / 2)) ** 2
    smooth = [(one.right + added / 2) / (one.judged + added) for one in known]
    middle = math.fsum(w * p for w, p in zip(weights, smooth))
    variance = math.fsum(
        w * w * (1 - one.judged / one.size) * p * (1 - p) / one.judged for w, p, one in zip(weights, smooth, known)
    )
    n = middle * (1 - middle) / variance if variance > 0 else math.inf
    return Estimate(share, *wilson(share, n, level))


def weighted(right: Sequence[bool], weights: Sequence[float], level: float = LEVEL) -> Estimate | None:
    """Estimate a share from rows with weights, such as those of a stratified sample above a threshold.

    Args:
        right: a row each.
        weights: how many rows of the run each stands for.
        level: how often such an interval is to hold the truth, 0..1.

    Returns:
        None without rows. The interval is Wilson's for Kish's effective number of rows.
    """
    total = math.fsum(weights)
    if not total:
        return None
    share = min(1.0, math.fsum(w for w, good in zip(weights, right) if good) / total)
    return Estimate(share, *wilson(share, total * total / math.fsum(w * w for w in weights), level))

"""From cosines to a score that means the same for every image.

A CLIP's cosines are comparable within one image only: a cluttered photo is lukewarm to every text, a flat graphic warm
to many. So a candidate is measured against a fixed sample of *distractors*, entities drawn once from the knowledge
base, whose texts the same image is compared with. With s = logit scale x cosine, the candidates C of a row and the
distractors D,

    image_score(c) = exp(s_c) / (exp(s_c) + sum over D of exp(s_d))
    score(c) = w_c exp(s_c) / (sum over C of w_c' exp(s_c') + sum over D of exp(s_d)),   w_c = link_score(c) ** weight

`image_score` says whether the image shows c rather than anything else, whatever the other candidates are; `score` is
the posterior over "one of the candidates or something else", with the text's opinion as a weak prior. Both lie in 0..1
and grow with the candidate's cosine, and one threshold serves all images. A candidate that is itself a distractor is
left out of its row's sum. MOFI (section 1.4) thresholds CLIP's similarity; the calibration is our choice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_LEAST_PRIOR = 1e-4
"""A candidate that the text all but excludes may still be what the image shows."""


@dataclass(frozen=True)
class Scores:
    """Scores of flat candidates, and each row's choice."""

    image_score: np.ndarray
    """float64 [m]: against the distractors alone."""
    score: np.ndarray
    """float64 [m]: against the row's other candidates and the distractors."""
    best: np.ndarray
    """int64 [n]: each row's best candidate as an index into the flat ones; -1 where it has none."""
    margin: np.ndarray
    """float64 [n]: the best score less the next one (less 0 where there is no other); nan where there is none."""


def score_candidates(
    cosine: np.ndarray,
    rows: np.ndarray,
    prior: np.ndarray,
    background: np.ndarray,
    *,
    logit_scale: float,
    prior_weight: float,
) -> Scores:
    """Score the candidates of a batch of images. Every (row, entity) pair comes once.

    Args:
        cosine: float [m]: image against the candidate's text.
        rows: int64 [m], ascending: each candidate's row, 0..n-1.
        prior: float [m]: the text's probability of the candidate; nan where the text says nothing, which counts as 1.
        background: float64 [n]: from `background_logits`.
        logit_scale: the CLIP's inverse temperature.
        prior_weight: exponent of the prior; 0 ignores the text.
    """
    count = len(background)
    logit = logit_scale * cosine
    image_score = _sigmoid(logit - background[rows])
    weighted = logit + prior_weight * np.log(np.clip(np.nan_to_num(prior, nan=1.0), _LEAST_PRIOR, 1.0))
    top = np.maximum(background, _max_by_row(weighted, rows, count))
    mass = np.exp(weighted - top[rows])
    total = np.bincount(rows, mass, count) + np.exp(background - top)
    score = mass / total[rows]
    best, margin = _choose(score, rows, count)
    return Scores(image_score, score, best, margin)


def background_logits(
    distractor_cosine: np.ndarray, own_rows: np.ndarray, own_distractors: np.ndarray, logit_scale: float
) -> np.ndarray:
    """Return the log of each row's summed distractor weights.

    Args:
        distractor_cosine: float [n, distractors].
        own_rows: int64 [k]: rows that have a distractor among their own candidates ...
        own_distractors: int64 [k]: ... and which: those are left out.
        logit_scale: the CLIP's inverse temperature.

    Returns:
        float64 [n]; -inf where no distractor is left.
    """
    logit = logit_scale * distractor_cosine.astype(np.float64)
    logit[own_rows, own_distractors] = -np.inf
    top = logit.max(axis=1, initial=-np.inf)
    with np.errstate(divide="ignore"):
        safe = np.where(np.isfinite(top), top, 0.0)
        return safe + np.log(np.exp(logit - safe[:, None]).sum(axis=1))


def _choose(score: np.ndarray, rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return each row's best candidate (the first of equals) and its margin."""
    best = np.full(count, -1, np.int64)
    margin = np.full(count, np.nan)
    order = np.lexsort((np.arange(len(score)), -score, rows))
    sorted_rows = rows[order]
    first = np.flatnonzero(np.diff(sorted_rows, prepend=-1))
    best[sorted_rows[first]] = order[first]
    has_next = np.append(sorted_rows, -1)[first + 1] == sorted_rows[first]
    following = order[np.minimum(first + 1, len(order) - 1)] if len(order) else first
    margin[sorted_rows[first]] = score[order[first]] - np.where(has_next, score[following], 0.0)
    return best, margin


def _max_by_row(values: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
    result = np.full(count, -np.inf)
    np.maximum.at(result, rows, values)
    return result


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1.0 + np.tanh(0.5 * x))

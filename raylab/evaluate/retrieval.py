"""Retrieval: images query images of the same set, ranked by cosine. GPR1200's protocol, leave-one-out, and k-NN."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from raylab.evaluate import ranking
from raylab.evaluate.base import Curve, Figure, Outcome, Score, Subject
from raylab.evaluate.confusion import sheet, worst_pairs
from raylab.evaluate.image_set import ImageSet, class_codes

RECALL_LEVELS = 101
"""Points of a precision-recall curve."""
NEIGHBOURS = (1, 5)


@dataclass(frozen=True)
class RetrievalConfig:
    """Retrieval within a labelled set of images."""

    data: str = ""
    """The set's address; empty: that of --data."""


@dataclass(frozen=True, eq=False)
class Precision:
    """How well each image's query finds its class."""

    average: np.ndarray
    """float64 [n]: average precision; nan where no other image is of the class."""
    curve: np.ndarray
    """float64 [levels]: interpolated precision at recalls 0..1, mean over the queries that have one."""


def average_precisions(vectors_ND: np.ndarray, class_N: np.ndarray, *, self_hit: bool) -> Precision:
    """Let each image query all of them.

    AP is the mean, over the positions of the relevant images, of the precision there.

    Args:
        vectors_ND: float32 [n, d], rows of length 1.
        class_N: integer [n], from 0.
        self_hit: rank the query too, as a relevant image: GPR1200's published code does.

    Returns:
        Average precision of each, and their mean curve. Takes `ranking.SCORE_BYTES` of memory, whatever n is.
    """
    average_N = np.full(len(vectors_ND), np.nan)
    curve_L = np.zeros(RECALL_LEVELS)
    for query, rank_P in enumerate(ranking.relevant_ranks(vectors_ND, class_N, self_hit=self_hit)):
        if len(rank_P):
            average_N[query] = ranking.average_precision(rank_P)
            curve_L += ranking.interpolated_precision(rank_P, RECALL_LEVELS)
    scored = int(np.count_nonzero(~np.isnan(average_N)))
    return Precision(average_N, curve_L / max(1, scored))


class Retrieval:
    """See `base.Benchmark`: leave-one-out mAP and k-NN within any labelled set.

    Args:
        images: the set.
        name: the benchmark's name.
        gpr1200: score by GPR1200's protocol besides.
    """

    protocols: ClassVar = {
        "official": "GPR1200 (arXiv 2111.13122): every image ranks all of all domains by cosine, itself included and "
        "relevant; mAP over the queries of each domain",
        "leave-one-out": "every image ranks all others by cosine; mAP over the queries whose class has another image",
        "k-nn any": "every image's k nearest others hold one of its class (recall@k)",
        "k-nn majority": "the class with most of the k nearest others is the image's; of equal ones, the nearest",
    }

    def __init__(self, images: ImageSet, name: str = "retrieval", *, gpr1200: bool = False) -> None:
        self.name, self._images, self._gpr1200 = name, images, gpr1200

    def __call__(self, subject: Subject) -> Outcome:
        """Embed the set and score it."""
        features = subject.features(self._images)
        images = self._images.take(np.flatnonzero(features.usable))
        vectors_ND = ranking.unit(features.vectors[features.usable], images.name)
        names, class_N = class_codes(images.labels)
        parts = _parts(images)
        scores: list[Score] = []
        figures: list[Figure] = []
        for protocol in ("official", "leave-one-out") if self._gpr1200 else ("leave-one-out",):
            found = average_precisions(vectors_ND, class_N, self_hit=protocol == "official")
            means = self._means(protocol, "mAP", found.average, parts)
            if means:
                recall = np.linspace(0, 1, RECALL_LEVELS)
                figures.append(Curve(f"{self.name}: {protocol}", ("recall", "precision"), recall, found.curve))
            scores += means
        index_NK, _ = ranking.nearest(vectors_ND, vectors_ND, max(NEIGHBOURS), leave_one_out=True)
        scores += self._neighbours(class_N, index_NK, parts)
        figures += self._shown(images, names, class_N, index_NK)
        notes = self._notes(features.usable)
        if not scores:
            notes += (f"{self.name}: no class of {images.name} has two images: there is nothing to find",)
        return Outcome(tuple(scores), tuple(figures), features.refused(images.name), notes)

    def _shown(self, images: ImageSet, names: list[str], class_N: np.ndarray, index_NK: np.ndarray) -> list[Figure]:
        asked = np.flatnonzero(~_alone(class_N))
        if not len(asked):
            return []
        queries, found = images.take(asked), index_NK[asked]
        said = [names[code] for code in class_N[found[:, 0]]]
        return [
            worst_pairs(f"{self.name}: class of the nearest other", queries, said),
            sheet(f"{self.name}: nearest others", queries, images, found, images.labels),
        ]

    def _neighbours(self, class_N: np.ndarray, index_NK: np.ndarray, parts: dict[str, np.ndarray]) -> list[Score]:
        alone_N = _alone(class_N)
        scores = []
        for k in (k for k in NEIGHBOURS if k <= index_NK.shape[1]):
            neighbour_NK = class_N[index_NK[:, :k]]
            hits = {
                "k-nn any": (neighbour_NK == class_N[:, None]).any(axis=1),
                "k-nn majority": ranking.majority(neighbour_NK) == class_N,
            }
            for protocol, hit_N in hits.items():
                scores += self._means(protocol, f"@{k}", np.where(alone_N, np.nan, hit_N), parts)
        return scores

    def _means(self, protocol: str, metric: str, value_N: np.ndarray, parts: dict[str, np.ndarray]) -> list[Score]:
        scores = []
        for part, rows in parts.items():
            known = value_N[rows][~np.isnan(value_N[rows])]
            if len(known):
                scores.append(Score(self.name, protocol, part, metric, float(known.mean()), len(known)))
        return scores

    def _notes(self, usable: Sequence[bool] | np.ndarray) -> tuple[str, ...]:
        if not self._gpr1200:
            return ()
        notes = []
        if self._images.domains is None:
            notes.append(f"{self.name}: {len(self._images)} images, not GPR1200's own 12,000: no rows for domains")
        if not np.all(usable):
            notes.append(f"{self.name}: not comparable with published numbers, as images were refused")
        return tuple(notes)


def _alone(class_N: np.ndarray) -> np.ndarray:
    """Return bool [n]: the image is the only one of its class; nothing can be found for it, so it is no query."""
    return np.bincount(class_N)[class_N] == 1


def _parts(images: ImageSet) -> dict[str, np.ndarray]:
    """Return the row numbers of all images, and of each domain in its order."""
    parts = {"all": np.arange(len(images))}
    if images.domains is not None:
        domain_N = np.asarray(images.domains, dtype=object)
        parts |= {domain: np.flatnonzero(domain_N == domain) for domain in dict.fromkeys(images.domains)}
    return parts

"""Visual matching: a picture gets the label of the nearest pictures in a labelled memory (VER: arXiv 2410.23676).

The memory's labels may be noisy, and that is what is measured: the same pictures with the labels before and after
correction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from raylab.errors import RaylabError
from raylab.evaluate import ranking
from raylab.evaluate.base import Figure, Outcome, Score, Subject
from raylab.evaluate.confusion import sheet, worst_pairs
from raylab.evaluate.image_set import ImageSet, class_codes
from raylab.evaluate.stores import Memory


@dataclass(frozen=True)
class MatchingConfig:
    """Visual matching."""

    memory: str = ""
    """A label store, or the address of a labelled set of images."""
    data: str = ""
    """The queries' address; empty: that of --data."""
    k: int = 5
    """Neighbours that vote."""


def match(
    query_QD: np.ndarray, memory_ND: np.ndarray, labels: Sequence[str | None], k: int
) -> tuple[list[str], list[str], np.ndarray]:
    """Label queries by their nearest pictures in a memory.

    Args:
        query_QD: float32 [q, d], rows of length 1.
        memory_ND: float32 [n, d], rows of length 1.
        labels: of the memory; a picture whose label is None is not in it.
        k: how many vote; of classes with equally many votes, that of the nearest picture.

    Returns:
        The label of the nearest, the label by vote, and int64 [q, k]: which pictures of the memory voted.

    Raises:
        RaylabError: no picture of the memory has a label.
    """
    labelled = np.flatnonzero([label is not None for label in labels])
    if not len(labelled):
        raise RaylabError("No picture of the memory has a label.")
    names, class_N = class_codes([str(labels[row]) for row in labelled])
    found_QK, _ = ranking.nearest(query_QD, memory_ND[labelled], k)
    class_QK = class_N[found_QK]
    voted_Q = ranking.majority(class_QK)
    return [names[code] for code in class_QK[:, 0]], [names[code] for code in voted_Q], labelled[found_QK]


class Matching:
    """See `base.Benchmark`.

    Args:
        memory: pictures, with one or more ways to label them.
        queries: labelled pictures to match.
        k: neighbours that vote.
    """

    name = "matching"
    protocols: ClassVar = {
        "nearest": "the label of the memory's nearest picture by cosine is the query's",
        "vote": "the label with most of the memory's k nearest pictures is; of equal ones, the nearest's",
    }

    def __init__(self, memory: Memory, queries: ImageSet, k: int = 5) -> None:
        if k < 1:
            raise RaylabError("--matching.k must be 1 or more.")
        self._memory, self._queries, self._k = memory, queries, k

    def __call__(self, subject: Subject) -> Outcome:
        """Embed both sets and match."""
        asked, kept = subject.features(self._queries), subject.features(self._memory.images)
        queries = self._queries.take(np.flatnonzero(asked.usable))
        rows = np.flatnonzero(kept.usable)
        pictures = self._memory.images.take(rows)
        query_QD = ranking.unit(asked.vectors[asked.usable], queries.name)
        memory_ND = ranking.unit(kept.vectors[kept.usable], pictures.name)
        scores: list[Score] = []
        figures: list[Figure] = []
        for part, all_labels in self._memory.labels.items():
            labels = [all_labels[row] for row in rows]
            first, voted, found_QK = match(query_QD, memory_ND, labels, self._k)
            scores.append(self._score("nearest", part, "top-1", first, queries))
            scores.append(self._score("vote", part, f"top-{found_QK.shape[1]} vote", voted, queries))
            figures.append(worst_pairs(f"matching by {part} labels", queries, first))
            figures.append(sheet(f"matching by {part} labels", queries, pictures, found_QK, labels))
        refused = {**asked.refused(queries.name), **kept.refused(pictures.name)}
        return Outcome(tuple(scores), tuple(figures), refused, self._notes(scores, queries))

    def _score(self, protocol: str, part: str, metric: str, said: Sequence[str], queries: ImageSet) -> Score:
        value = float(np.mean([one == true for one, true in zip(said, queries.labels, strict=True)]))
        return Score(self.name, protocol, part, metric, value, len(queries))

    def _notes(self, scores: Sequence[Score], queries: ImageSet) -> tuple[str, ...]:
        notes = []
        known = {label for labels in self._memory.labels.values() for label in labels}
        if outside := sum(label not in known for label in queries.labels):
            notes.append(f"matching: {outside} queries' classes are in no label of the memory; they count as wrong")
        return (*notes, *_gains(scores))


def _gains(scores: Sequence[Score]) -> list[str]:
    """Say by how much corrected labels beat candidate ones, relative to these."""
    value: Mapping[tuple[str, str], float] = {(one.metric, one.part): one.value for one in scores}
    gains = []
    for metric in dict.fromkeys(one.metric for one in scores):
        before, after = value.get((metric, "candidate")), value.get((metric, "corrected"))
        if before and after is not None:
            gains.append(f"matching: corrected against candidate labels, {metric}: {after / before - 1:+.1%} relative")
    return gains

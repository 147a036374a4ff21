"""Flat hit@k and hierarchical precision@k of a model that ranks names, on classes that it learnt from and on others.

As DeViSE is scored (Frome et al., NeurIPS 2013).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from raylab.evaluate import ranking
from raylab.evaluate.base import Outcome, Score, Subject
from raylab.evaluate.hierarchy import IsA
from raylab.evaluate.image_set import ImageSet

KS = (1, 2, 5, 10, 20)
"""The paper's."""
SEEN, UNSEEN, BOTH = "seen", "unseen", "unseen+seen"


@dataclass(frozen=True)
class EmbeddingConfig:
    """Names ranked for pictures."""

    data: str = ""
    """The images' address; empty: that of --data. Their classes are entity ids, or nodes of the edges."""
    edges: str = ""
    """"Is a" edges, for hierarchical precision: a knowledge base's folder, JSON lines or CSV as of ``build_kb.py
    --type-edges`` (Wikidata's P279; entities' own classes, P31, come from --kb), ImageNet's wordnet.is_a.txt, or
    ``miniworld://``. Empty: those of --kb; where it has none, flat hit@k alone."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """What a picture may be called in one protocol."""

    labels: Sequence[str]
    vectors: np.ndarray
    """float32 [n, d], rows of length 1; nan for a name that the model does not know: it is never said."""


class Embedding:
    """See `base.Benchmark`.

    Args:
        images: labelled images.
        graph: makes one that has these labels, for hierarchical precision; None: hit@k alone.
        notes: on what the graph is, or why there is none.
    """

    name = "embedding"
    protocols: ClassVar = {
        SEEN: "pictures of classes that the model learnt from, ranked among all of these",
        UNSEEN: "zero-shot: pictures of other classes, ranked among the set's other classes",
        BOTH: "generalised zero-shot: pictures of other classes, ranked among these and those learnt from together",
    }

    def __init__(
        self, images: ImageSet, graph: Callable[[Sequence[str]], IsA] | None = None, notes: tuple[str, ...] = ()
    ) -> None:
        self._images, self._graph, self._given = images, graph, notes

    def __call__(self, subject: Subject) -> Outcome:
        """Embed images and names, rank, score. A model that names no classes of its own has learnt from none."""
        features = subject.features(self._images)
        kept = np.flatnonzero(features.usable)
        images, embedder = self._images.take(kept), subject.embedder
        vectors_ND = ranking.unit(features.vectors[kept], images.name)
        seen: dict[str, str] = dict(getattr(embedder, "classes", {}))
        unseen = {label: images.names_of(label)[0] for label in dict.fromkeys(images.labels) if label not in seen}
        graph = self._graph(list(seen | unseen)) if self._graph else None
        notes = (*self._given, *_notes(seen | unseen, embedder, graph))
        if graph is not None and not graph.has(list(seen | unseen)).any():
            graph = None  # nothing is near to anything
        scores: list[Score] = []
        for protocol, names in ((SEEN, seen), (UNSEEN, unseen), (BOTH, unseen | seen if seen else {})):
            asked = [row for row, label in enumerate(images.labels) if (label in seen) == (protocol == SEEN)]
            candidates = Candidates(list(names), _vectors(embedder, list(names.values())))
            if asked and np.isfinite(candidates.vectors).any():
                part = images.take(np.array(asked))
                found = measures(part.labels, vectors_ND[asked], candidates, graph)
                scores += [Score(self.name, protocol, "all", name, value, len(part)) for name, value in found.items()]
        return Outcome(tuple(scores), (), features.refused(self._images.name), notes)


def measures(
    labels: Sequence[str], vectors_ND: np.ndarray, candidates: Candidates, graph: IsA | None
) -> dict[str, float]:
    """Return hit@k and, where there is a graph, hp@k of pictures ranked among candidates, for each k of `KS` that fits.

    Args:
        labels: of the pictures.
        vectors_ND: float32, theirs, rows of length 1.
        candidates: what they may be called.
        graph: see `IsA`.
    """
    ks = [k for k in KS if k <= len(candidates.labels)]
    said = _said(vectors_ND, candidates, ks[-1])
    found = {f"hit@{k}": hits(labels, said, k) for k in ks}
    if graph is None:
        return found
    valid = frozenset(candidates.labels)
    right = graph.correct_sets(labels, valid, ks)
    for k in ks:
        own = {label: sets[k] for label, sets in right.items()}
        found[f"hp@{k}"] = hierarchical_precision(labels, said, own, k)
    return found


def _notes(names: Mapping[str, str], embedder: Any, graph: IsA | None) -> tuple[str, ...]:
    unknown = int(np.isnan(_vectors(embedder, list(names.values()))[:, :1]).sum())
    loose = 0 if graph is None else int((~graph.has(list(names))).sum())
    notes = {
        f"embedding: {unknown} of {len(names)} classes have a name that the model does not know": unknown,
        f"embedding: {loose} of {len(names)} classes are not in the graph: near to nothing": loose,
    }
    return tuple(note for note, count in notes.items() if count)


def _vectors(embedder: Any, names: Sequence[str]) -> np.ndarray:
    """Return the names' vectors, nan for those unknown."""
    if not names:
        return np.empty((0, embedder.dim), np.float32)
    if hasattr(embedder, "name_vectors"):
        return embedder.name_vectors(names)
    return embedder.encode_texts(names)


def _said(vectors_ND: np.ndarray, candidates: Candidates, k: int) -> list[list[str]]:
    """Return the `k` nearest labels of each picture, nearest first; fewer where fewer are known."""
    known = np.flatnonzero(np.isfinite(candidates.vectors[:, 0]))
    place_NK, _ = ranking.nearest(vectors_ND, candidates.vectors[known], k)
    return [[candidates.labels[known[place]] for place in row] for row in place_NK]


def hits(labels: Sequence[str], said: Sequence[Sequence[str]], k: int) -> float:
    """Return flat hit@k: the share of pictures whose label is among the first `k` said."""
    return float(np.mean([label in one[:k] for label, one in zip(labels, said)]))


def hierarchical_precision(
    labels: Sequence[str], said: Sequence[Sequence[str]], right: Mapping[str, frozenset[str]], k: int
) -> float:
    """Return hp@k: the mean over pictures of the share of the first `k` said that are in the label's correct set.

    Args:
        labels: of the pictures.
        said: of each picture, nearest first; where it is shorter than `k`, the rest counts as wrong.
        right: label -> hCorrectSet(label, k).
        k: at least 1.
    """
    return float(np.mean([sum(name in right[label] for name in one[:k]) / k for label, one in zip(labels, said)]))

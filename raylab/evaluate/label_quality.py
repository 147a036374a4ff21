"""How right a label store is, where the truth is known: precision, recall, coverage, and precision against coverage.

A row's `truth` lists the entities in its picture: null is unknown (the row is left out), an empty list says that the
picture holds no catalogued entity. A label is *correct* if its entity is one of those. See `label.audit` for every step
of a run; here it is the labels as they stand that are scored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raylab.errors import RaylabError
from raylab.evaluate.base import Curve, Outcome, Score, Subject
from raylab.evaluate.stores import open_part


@dataclass(frozen=True)
class LabelQualityConfig:
    """The quality of labels."""

    labels: str = ""
    """A finished label store whose source knows the truth."""


@dataclass(frozen=True, eq=False)
class Judged:
    """Rows whose truth is known."""

    labelled: np.ndarray
    """Bool [n]: the row has a label."""
    correct: np.ndarray
    """Bool [n]: the label is one of the picture's entities."""
    holds: np.ndarray
    """Bool [n]: the picture holds a catalogued entity."""
    score: np.ndarray
    """float64 [n]: of the label; nan where it has none."""

    def figures(self) -> dict[str, tuple[float, int]]:
        """Return precision, recall and coverage, each with the number of rows that it is a share of."""
        said, held = int(self.labelled.sum()), int(self.holds.sum())
        found = {
            "precision": (int(self.correct.sum()), said),
            "recall": (int((self.correct & self.holds).sum()), held),
            "coverage": (int((self.labelled & self.holds).sum()), held),
        }
        return {metric: (part / whole, whole) for metric, (part, whole) in found.items() if whole}


def judge(rows: pa.Table, column: str = "entity_id") -> Judged:
    """Compare labels with the truth.

    Args:
        rows: ``truth``, ``labelled`` (bool), ``score`` and the column of labels; rows of unknown truth are left out.
        column: the labels.
    """
    rows = rows.filter(pc.is_valid(rows["truth"]))
    truths, labels = rows["truth"].to_pylist(), rows[column].to_pylist()
    labelled = np.asarray(rows["labelled"]) & np.array([label is not None for label in labels], bool)
    correct = labelled & np.array([label in truth for label, truth in zip(labels, truths)], bool)
    holds = np.array([bool(truth) for truth in truths], bool)
    score = np.where(labelled, pc.cast(rows["score"], pa.float64()).to_numpy(), np.nan)
    return Judged(labelled, correct, holds, score)


def precision_curve(judged: Judged) -> Curve | None:
    """Return precision against coverage as the threshold on the score falls; None where no label has a score."""
    scored = np.flatnonzero(~np.isnan(judged.score))
    if not len(scored):
        return None
    order = scored[np.argsort(-judged.score[scored], kind="stable")]
    last_of_equals = np.flatnonzero(np.diff(judged.score[order], append=-np.inf))
    precision = np.cumsum(judged.correct[order])[last_of_equals] / (last_of_equals + 1)
    coverage = np.cumsum(judged.holds[order])[last_of_equals] / max(1, int(judged.holds.sum()))
    return Curve("label_quality: surest labels first", ("coverage", "precision"), coverage, precision)


class LabelQuality:
    """See `base.Benchmark`. It scores labels: the model is not asked.

    Args:
        uri: the label store.
    """

    name = "label_quality"
    protocols: ClassVar = {
        "row-truth": "precision: correct among labelled rows; coverage: labelled among rows whose picture holds a "
        "catalogued entity; recall: correct among those; rows of unknown truth are left out",
    }

    def __init__(self, uri: str) -> None:
        if not uri:
            raise RaylabError("--label-quality.labels is missing: a finished label store.")
        self._rows = _read(uri)
        if self._rows["truth"].null_count == self._rows.num_rows:
            raise RaylabError(f"{uri}: no row's truth is known; the mini-world's is.")

    def __call__(self, subject: Subject) -> Outcome:
        """Score the labels."""
        judged = judge(self._rows)
        scores = self._scores("all", judged)
        annotated = self._rows.filter(pc.and_(self._rows["annotated"], self._rows["labelled"]))
        for part, column in (("candidate", "candidate_id"), ("corrected", "entity_id")):
            if annotated.num_rows:
                found = judge(annotated, column).figures()
                scores += [self._score(part, "precision", *found["precision"])] if "precision" in found else []
        curve = precision_curve(judged)
        unknown = self._rows["truth"].null_count
        notes = (f"label_quality: {unknown} rows of unknown truth are left out",) if unknown else ()
        return Outcome(tuple(scores), (curve,) if curve else (), notes=notes)

    def _scores(self, part: str, judged: Judged) -> list[Score]:
        return [self._score(part, metric, *figure) for metric, figure in judged.figures().items()]

    def _score(self, part: str, metric: str, value: float, count: int) -> Score:
        return Score(self.name, "row-truth", part, metric, value, count)


def _read(uri: str) -> pa.Table:
    parts = []
    for part in ("labels", "rejects"):
        columns = {name: pc.field(name) for name in ("truth", "entity_id", "score")}
        columns |= {
            "annotated": pc.is_valid(pc.field("annotation")),
            "candidate_id": pc.field("annotation", "candidate_id"),
            "labelled": pc.scalar(part == "labels"),
        }
        parts.append(open_part(uri, part).to_table(columns=columns))
    return pa.concat_tables(parts)

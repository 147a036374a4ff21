"""How right a run is, where the source knows the truth.

A row's `truth` lists the entities in its picture: null is unknown (the row is left out), an empty list says that the
picture holds no catalogued entity. A label is *correct* if its entity is one of those. For a step that labels rows,

    precision  correct among labelled rows
    coverage   labelled among rows whose picture holds a catalogued entity
    recall     correct among those rows

The first two steps label nothing yet. A row counts as labelled by `mentions` if some mention has a candidate, by
`candidates` if it has any, and as correct if one of those is true; precision counts the mentions, or the candidates,
that are true. So their recall is the ceiling of every step behind them.

Where an annotator was asked, `select` is judged by the candidate that the annotator was given, and `verify` by the
entity that it left. A title that names no entity of the knowledge base is a label, and wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from raylab.label.evidence import flat_candidates
from raylab.schema import ANNOTATION, Reason

_COLUMNS = ("truth", "candidates", "link_entity_id", "entity_id", "reject_step", "reject_reason")
_SAID = ("candidate_id", "rescued", "decision")
"""Fields of the annotation that are needed; none of its long texts."""
_AFTER_SELECT = pa.array([Reason.RARE_ENTITY.value])
"""Rejections that come after the image has spoken and say nothing against its verdict."""
_STEPS_AFTER_SELECT = pa.array(["verify", "questions", "count"])


@dataclass(frozen=True)
class Tally:
    """Counts of one step; they add up over batches."""

    said: int
    """Labels given (mentions, candidates): what precision is a share of."""
    right: int
    """Those that are correct."""
    held: int
    """Rows whose picture holds a catalogued entity: what recall and coverage are shares of."""
    held_labelled: int
    """Those that are labelled."""
    held_correct: int
    """Those that are labelled correctly."""

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(a + b for a, b in zip(vars(self).values(), vars(other).values())))

    def figures(self) -> dict[str, float | None]:
        """Return precision, recall and coverage, 0..1; null where there is nothing to divide by."""
        return {
            "precision": _ratio(self.right, self.said),
            "recall": _ratio(self.held_correct, self.held),
            "coverage": _ratio(self.held_labelled, self.held),
        }


def truth_report(*parts: pa.Table | ds.Dataset) -> dict[str, dict[str, float | None]]:
    """Measure every step of a run against the known truth.

    Args:
        parts: tables or datasets that together hold all rows of the run: labels and rejects, or rows in flight.

    Returns:
        ``{step: {"precision": p, "recall": r, "coverage": c}}`` for mentions, candidates, link and select, and for
        verify where some row has an annotation; empty if no row's truth is known.
    """
    totals: dict[str, Tally] = {}
    annotated = False
    for table in _tables(parts):
        annotated |= bool(pc.any(table["annotated"]).as_py())
        for step, tally in _tally(table.filter(pc.is_valid(table["truth"]))).items():
            totals[step] = totals[step] + tally if step in totals else tally
    if not annotated:
        totals.pop("verify", None)
    return {step: tally.figures() for step, tally in totals.items()} if _any_known(totals) else {}


@dataclass(frozen=True)
class Curve:
    """Precision against coverage as the threshold on a score falls, one point for every distinct score."""

    threshold: np.ndarray
    """float64 [points], falling: rows with this score or a higher one are labelled."""
    precision: np.ndarray
    coverage: np.ndarray

    def at_coverage(self, coverage: float) -> tuple[float, float]:
        """Return (precision, threshold) at the first point that covers as much; nan where none does."""
        reached = np.flatnonzero(self.coverage >= coverage)
        return (self.precision[reached[0]], self.threshold[reached[0]]) if len(reached) else (np.nan, np.nan)

    def at_precision(self, precision: float) -> tuple[float, float]:
        """Return (coverage, threshold) at the last point that is as precise; (0, inf) where none is."""
        precise = np.flatnonzero(self.precision >= precision)
        return (self.coverage[precise[-1]], self.threshold[precise[-1]]) if len(precise) else (0.0, np.inf)


def precision_coverage(scores: np.ndarray, correct: np.ndarray, holds: np.ndarray) -> Curve:
    """Return the curve of a score over rows whose truth is known.

    Args:
        scores: float [n]; nan where a row cannot be labelled at any threshold.
        correct: bool [n]: the row's label would be correct.
        holds: bool [n]: the row's picture holds a catalogued entity.
    """
    scored = np.flatnonzero(~np.isnan(scores))
    order = scored[np.argsort(-scores[scored], kind="stable")]
    last_of_equals = np.flatnonzero(np.diff(scores[order], append=-np.inf))
    right = np.cumsum(correct[order])[last_of_equals]
    covered = np.cumsum(holds[order])[last_of_equals]
    return Curve(scores[order][last_of_equals], right / (last_of_equals + 1), covered / max(1, int(holds.sum())))


def precision_at_coverage(scores: np.ndarray, correct: np.ndarray, holds: np.ndarray, coverage: float) -> float:
    """Return the precision at the highest threshold that labels this share of the rows that hold an entity.

    Args:
        scores: see `precision_coverage`.
        correct: see there.
        holds: see there.
        coverage: 0..1.

    Returns:
        nan if no threshold labels so many.
    """
    return precision_coverage(scores, correct, holds).at_coverage(coverage)[0]


def holds_entity(table: pa.Table) -> np.ndarray:
    """Return bool [n]: the row's picture holds a catalogued entity."""
    return pc.fill_null(pc.greater(pc.list_value_length(table["truth"]), 0), False).to_numpy()


def is_true(table: pa.Table, column: str) -> np.ndarray:
    """Return bool [n]: the entity in `column` is one of the row's true ones."""
    return _true_in_row(table, np.arange(table.num_rows), table[column])


def _tally(table: pa.Table) -> dict[str, Tally]:
    holds = holds_entity(table)
    flat = flat_candidates(table)
    true = _true_in_row(table, flat.rows, flat.field("entity_id"))
    mention = flat.numbers("mention", -1).astype(np.int64)
    named = mention >= 0
    most = int(mention.max(initial=0)) + 1
    mentions, true_mentions = (np.unique(flat.rows[m] * most + mention[m]) for m in (named, named & true))
    return {
        "mentions": _of_rows(holds, flat.rows[named], flat.rows[named & true], len(mentions), len(true_mentions)),
        "candidates": _of_rows(holds, flat.rows, flat.rows[true], len(true), int(true.sum())),
        "link": _of_labels(table, table["link_entity_id"], table["link_entity_id"].is_valid().to_numpy(), holds),
        "select": _of_labels(table, *_selected(table), holds),
        "verify": _of_labels(table, table["entity_id"], _passed_verify(table), holds),
    }


def _of_rows(holds: np.ndarray, labelled: np.ndarray, correct: np.ndarray, said: int, right: int) -> Tally:
    is_labelled, is_correct = np.zeros(len(holds), bool), np.zeros(len(holds), bool)
    is_labelled[labelled] = True
    is_correct[correct] = True
    return Tally(said, right, int(holds.sum()), int((holds & is_labelled).sum()), int((holds & is_correct).sum()))


def _of_labels(table: pa.Table, ids: pa.ChunkedArray, labelled: np.ndarray, holds: np.ndarray) -> Tally:
    correct = _true_in_row(table, np.arange(table.num_rows), ids) & labelled
    return _of_rows(holds, labelled, correct, int(labelled.sum()), int(correct.sum()))


def _selected(table: pa.Table) -> tuple[pa.ChunkedArray, np.ndarray]:
    """Return what the selection chose for each row, and bool [n]: it chose something, and let it pass."""
    annotated = table["annotated"]
    ids = pc.if_else(annotated, table["candidate_id"], table["entity_id"])
    reason = table["reject_reason"]
    passed = pc.or_(pc.is_null(reason), pc.is_in(reason, value_set=_AFTER_SELECT))
    passed = pc.or_(passed, pc.is_in(table["reject_step"], value_set=_STEPS_AFTER_SELECT))
    passed = pc.if_else(annotated, pc.invert(pc.fill_null(table["rescued"], False)), passed)
    return ids, pc.and_(ids.is_valid(), passed).to_numpy()


def _passed_verify(table: pa.Table) -> np.ndarray:
    """Return bool [n]: the annotator's word stands, whatever became of the row later."""
    refused = pc.and_(pc.is_valid(table["reject_reason"]), pc.fill_null(pc.equal(table["reject_step"], "verify"), True))
    return pc.and_not(pc.is_valid(table["decision"]), refused).to_numpy()


def _true_in_row(table: pa.Table, rows: np.ndarray, ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Return bool [m]: ``ids[i]`` is in the truth of row ``rows[i]``."""
    truth = table["truth"].combine_chunks()
    true_rows = pc.list_parent_indices(truth).to_numpy().astype(np.int64)
    codes = pc.unique(pc.list_flatten(truth))
    size = len(codes) + 1
    true_keys = true_rows * size + _codes(pc.list_flatten(truth), codes)
    code = _codes(ids, codes)
    return (code >= 0) & np.isin(rows * size + code, true_keys)


def _codes(ids: pa.Array | pa.ChunkedArray, known: pa.Array) -> np.ndarray:
    return pc.fill_null(pc.index_in(ids, value_set=known, skip_nulls=True), -1).to_numpy().astype(np.int64)


def _tables(parts: tuple[pa.Table | ds.Dataset, ...]) -> Iterator[pa.Table]:
    """Yield the needed columns of all parts, batch by batch: `_COLUMNS`, ``annotated``, and those of `_SAID`."""
    for part in parts:
        dataset = ds.dataset(part) if isinstance(part, pa.Table) else part
        names = dataset.schema.names
        columns = {
            name: pc.field(name) if name in names else pc.scalar(pa.scalar(None, pa.string())) for name in _COLUMNS
        }
        if "annotation" in names:
            columns |= {"annotated": pc.is_valid(pc.field("annotation"))}
            columns |= {name: pc.field("annotation", name) for name in _SAID}
        else:
            kinds = {name: ANNOTATION.field(name).type for name in _SAID}
            columns |= {"annotated": pc.scalar(False)}
            columns |= {name: pc.scalar(pa.scalar(None, kind)) for name, kind in kinds.items()}
        yield from (pa.Table.from_batches([batch]) for batch in dataset.to_batches(columns=columns))


def _any_known(totals: dict[str, Tally]) -> bool:
    return any(tally.held or tally.said for tally in totals.values())


def _ratio(part: int, whole: int) -> float | None:
    return round(part / whole, 6) if whole else None

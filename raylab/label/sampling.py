"""A stratified sample of a run's decisions, to be judged right or wrong.

A *decision* is a row with an entity: labelled, or rejected by the score of that entity. Strata are step x decision x
bin of how sure the step was, their sizes known exactly. The sample of a seed is the same whatever the order of rows or
files: a stratum's rows are ranked by a hash of seed and row id.

The run is read twice, in the columns that are needed, and never held in memory.
"""

from __future__ import annotations

import collections
import hashlib
import heapq
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from raylab.schema import Reason

LABELS = ("labelled", "verified", "corrected", "unresolved")
"""Decisions that leave a label; precision is their share of right ones."""
WEIGHED = (Reason.LOW_SCORE.value, Reason.LOW_MARGIN.value, Reason.LOW_CONFIDENCE.value)
"""Decisions that withhold one although there is an entity: right ones among them are labels lost."""
REJECTED_SHARE = 0.2
"""Of the sample: what goes to withheld labels, where there are any."""
BINS = 5
"""Bins of a decision, each with about as many rows."""
LEAST = 5
"""Rows of a stratum that are sampled where it has so many: fewer say nothing of it."""
_FINE = 1000


@dataclass
class Stratum:
    """Rows of one kind, and those of them that are sampled."""

    step: str
    decision: str
    low: float
    """Of the bin, 0..1, included."""
    high: float
    """Of the bin; excluded unless it is 1."""
    size: int
    """Rows of the run."""
    row_ids: list[str] = field(default_factory=list)
    """The sampled ones, in the order in which they are to be judged: any first part is a random sample too."""


@dataclass(frozen=True)
class AuditSample:
    """Which rows are judged. Lies beside the labels as ``audit_sample.json``."""

    rows: int
    """As many were asked for."""
    seed: int
    strata: list[Stratum]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> AuditSample:
        """Return what `to_json` gave."""
        return AuditSample(value["rows"], value["seed"], [Stratum(**one) for one in value["strata"]])

    def by_row(self) -> dict[str, Stratum]:
        """Return row id -> stratum."""
        return {row_id: stratum for stratum in self.strata for row_id in stratum.row_ids}


def draw(
    labels: ds.Dataset,
    rejects: ds.Dataset,
    rows: int = 200,
    seed: int = 0,
    allocation: Literal["neyman", "equal"] = "neyman",
) -> AuditSample:
    """Draw a sample of decisions.

    Args:
        labels: the run's labels.
        rejects: its rejects.
        rows: to draw; fewer where the run has fewer.
        seed: another seed draws other rows.
        allocation: ``neyman`` gives a stratum rows by its size times the spread that its bin leads one to expect;
            ``equal`` the same number to each.
    """
    strata = [stratum for counts in _count(labels, rejects).items() for stratum in _cut(*counts)]
    wanted = dict(zip(map(id, strata), _allocate(strata, rows, allocation)))
    heaps: dict[int, list[tuple[int, str]]] = {id(stratum): [] for stratum in strata}
    places = collections.defaultdict(list)
    for stratum in strata:
        places[stratum.step, stratum.decision].append(stratum)
    for table in _decisions(labels, rejects):
        for row_id, step, decision, value in zip(*(table[name].to_pylist() for name in _NAMES)):
            stratum = next(one for one in places[step, decision] if value < one.high or one.high >= 1)
            _keep_lowest(heaps[id(stratum)], (_rank(row_id, seed), row_id), wanted[id(stratum)])
    for stratum in strata:
        stratum.row_ids = [row_id for _, row_id in sorted((-rank, row_id) for rank, row_id in heaps[id(stratum)])]
    return AuditSample(rows, seed, strata)


_NAMES = ("row_id", "step", "decision", "value")


def _rank(row_id: str, seed: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}\x1f{row_id}".encode(), digest_size=8).digest())


def _keep_lowest(heap: list[tuple[int, str]], one: tuple[int, str], most: int) -> None:
    """Keep the `most` lowest ranks, as a heap of negated ones."""
    entry = (-one[0], one[1])
    if len(heap) < most:
        heapq.heappush(heap, entry)
    elif heap and entry > heap[0]:
        heapq.heapreplace(heap, entry)


def _decisions(labels: ds.Dataset, rejects: ds.Dataset) -> Iterator[pa.Table]:
    """Yield ``row_id, step, decision, value`` of all decisions, a batch at a time.

    `value` is how sure the step was, 0..1: the annotator's confidence where it has one, else the score; 0 without.
    """
    columns = {name: pc.field(name) for name in ("row_id", "entity_id", "score")}
    columns |= {name: pc.field("annotation", name) for name in ("decision", "confidence")}
    for batch in labels.to_batches(columns=columns):
        unresolved = pc.and_(pc.is_valid(batch["decision"]), pc.is_null(batch["entity_id"]))
        decision = pc.if_else(unresolved, "unresolved", pc.coalesce(batch["decision"], "labelled"))
        step = pc.if_else(pc.is_valid(batch["decision"]), "verify", "select")
        yield _table(batch, step, decision)
    rejected = columns | {name: pc.field(name) for name in ("reject_step", "reject_reason")}
    weighed = pc.field("reject_reason").isin(WEIGHED) & pc.is_valid(pc.field("entity_name"))
    for batch in rejects.to_batches(columns=rejected, filter=weighed):
        yield _table(batch, batch["reject_step"], batch["reject_reason"])


def _table(batch: pa.RecordBatch, step: pa.Array, decision: pa.Array) -> pa.Table:
    value = pc.fill_null(pc.coalesce(batch["confidence"], batch["score"]).cast(pa.float64()), 0.0)
    value = np.clip(np.nan_to_num(value.to_numpy(zero_copy_only=False)), 0.0, 1.0)
    return pa.table(dict(zip(_NAMES, (batch["row_id"], step, decision, value))))


def _count(labels: ds.Dataset, rejects: ds.Dataset) -> dict[tuple[str, str], np.ndarray]:
    """Return step and decision -> rows in each of many fine bins."""
    counts: dict[tuple[str, str], np.ndarray] = {}
    edges = np.linspace(0, 1, _FINE + 1)
    for table in _decisions(labels, rejects):
        kinds = table.group_by(["step", "decision"]).aggregate([("value", "list")])
        for kind in kinds.to_pylist():
            key = kind["step"], kind["decision"]
            counts[key] = counts.get(key, np.zeros(_FINE, np.int64)) + np.histogram(kind["value_list"], edges)[0]
    order = {name: place for place, name in enumerate((*LABELS, *WEIGHED))}
    return dict(sorted(counts.items(), key=lambda item: (order.get(item[0][1], 99), item[0])))


def _cut(kind: tuple[str, str], counts: np.ndarray) -> list[Stratum]:
    """Cut a decision's rows into bins of about the same number of rows."""
    total = np.cumsum(counts)
    inner = [int(np.searchsorted(total, total[-1] * part / BINS)) + 1 for part in range(1, BINS)]
    edges = sorted({0, *inner, _FINE})
    sizes = [int(counts[a:b].sum()) for a, b in itertools.pairwise(edges)]
    return [Stratum(*kind, a / _FINE, b / _FINE, n) for a, b, n in zip(edges, edges[1:], sizes) if n]


def _allocate(strata: list[Stratum], rows: int, allocation: str) -> list[int]:
    """Return how many rows each stratum gives."""
    kept = [stratum.decision in LABELS for stratum in strata]
    share = REJECTED_SHARE if not all(kept) and any(kept) else float(not any(kept))
    result = [0] * len(strata)
    spared = 0
    for labels, part in ((False, share), (True, 1 - share)):
        mine = [number for number, is_label in enumerate(kept) if is_label == labels]
        wanted = round(rows * part) + spared
        given = _spread([strata[number] for number in mine], wanted, allocation)
        spared = wanted - sum(given)
        for number, n in zip(mine, given):
            result[number] = n
    return result


def _spread(strata: list[Stratum], rows: int, allocation: str) -> list[int]:
    """Hand out `rows` by need, at least a few to each stratum, never more than it has."""
    sizes = [stratum.size for stratum in strata]
    given = [min(LEAST, size, rows // max(1, len(strata))) for size in sizes]
    need = [_need(stratum) if allocation == "neyman" else 1.0 for stratum in strata]
    while (left := rows - sum(given)) > 0:
        still_open = [number for number, size in enumerate(sizes) if given[number] < size]
        if not still_open:
            break
        whole = sum(need[number] for number in still_open)
        before = sum(given)
        for number in still_open:
            given[number] = min(sizes[number], given[number] + int(left * need[number] / whole))
        if sum(given) == before:  # less than one row each: to the most needy, one after the other
            for number in sorted(still_open, key=lambda one: (-need[one], one))[:left]:
                given[number] += 1
    return given


def _need(stratum: Stratum) -> float:
    """Return size times the standard deviation to expect, were the step as right as it is sure; never next to none."""
    expected = min(0.9, max(0.1, (stratum.low + stratum.high) / 2))
    return stratum.size * math.sqrt(expected * (1 - expected))

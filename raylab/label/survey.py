"""One bounded look over a finished run: its distributions, and the rows that stand for each decision.

The store is read a row group at a time and only in the columns that a question needs, so that memory does not grow with
the run. Of very many rows a part of the files is read, spread evenly over the run, so that time does not grow either.
Row ids are hashes: a group's rows with the lowest ids are a uniform sample of it, the same one every time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from raylab.label.audit import is_true
from raylab.schema import LABEL, Reason

MOST_ROWS = 4_000_000
"""Rows of labels, and of rejects, that are looked at: a minute's work. A distribution needs no more."""
UNIT_EDGES = np.linspace(0.0, 1.0, 1001)
"""Bins of scores and margins: fine enough to read a threshold from."""
LENGTH_EDGES = 2.0 ** np.arange(0, 15)
"""Bins of caption lengths: 1, 2-3, 4-7, ... characters."""
ANNOTATED = ("verified", "corrected", "unresolved")
"""Groups of labelled rows that the annotator made."""
_ABSTENTIONS = (Reason.LOW_SCORE.value, Reason.LOW_MARGIN.value)
_CHARS = {"chars": pc.utf8_length(pc.field("caption"))}
_NOTE = {name: pc.field("annotation", name) for name in ("decision", "candidate_id", "confidence")}
"""What is read of annotations where only numbers are counted."""
_SHOWN = [name for name in LABEL.names if name != "models"]
_REJECTED = [*_SHOWN, "reject_step", "reject_reason", "reject_detail"]


@dataclass
class Histogram:
    """Counts per bin, split into series (``right``, ``wrong``, ``labelled``, ``abstained``, ``rejected``)."""

    edges: np.ndarray
    """float64 [bins + 1], rising. Values beyond the ends count in the first and the last bin."""
    series: dict[str, np.ndarray] = field(default_factory=dict)
    """Series name -> int64 [bins]."""

    def add(self, name: str, values: pa.ChunkedArray | np.ndarray) -> None:
        """Count `values` (numbers; nulls and NaN are left out) into series `name`."""
        numbers = values if isinstance(values, np.ndarray) else values.to_numpy()
        numbers = np.asarray(numbers, np.float64)
        inside = np.clip(numbers[~np.isnan(numbers)], self.edges[0], self.edges[-1])
        counts = np.histogram(inside, self.edges)[0]
        self.series[name] = self.series.get(name, 0) + counts

    def coarse(self, bins: int) -> Histogram:
        """Return the same counts with every `bins` neighbouring bins joined; `bins` divides their number."""
        joined = {name: counts.reshape(-1, bins).sum(axis=1) for name, counts in self.series.items()}
        return Histogram(self.edges[::bins], joined)

    def quantile(self, share: float) -> float:
        """Return the upper edge of the bin in which `share` (0..1) of all counted values is reached; 1.0 if empty."""
        total = np.cumsum(sum(self.series.values(), np.zeros(len(self.edges) - 1, np.int64)))
        return float(self.edges[np.searchsorted(total, share * total[-1]) + 1]) if total[-1] else 1.0


@dataclass
class Group:
    """Rows of one decision: how many there are, and a sample of them."""

    decision: str
    """``high``, ``near``, ``overruled`` or ``wrong`` for labelled rows, ``verified``, ``corrected`` or ``unresolved``
    for annotated ones; a `schema.Reason` for the others."""
    step: str | None
    """The step that rejected the rows; None for labelled ones."""
    total: int = 0
    """Where a part of the rows was looked at, what it comes to in all of them."""
    rows: list[dict] = field(default_factory=list)
    """Rows of `schema.LABEL` or `schema.REJECT` without ``models``, by rising row id."""
    _chosen: list[tuple[str, int]] = field(default_factory=list)

    def offer(self, piece: int, row_ids: pa.ChunkedArray, limit: int) -> None:
        """Keep the `limit` lowest of the ids seen so far, and in which piece of the dataset they lie."""
        self.total += len(row_ids)
        table = pa.table({"row_id": row_ids})
        best = table.take(pc.select_k_unstable(table, limit, [("row_id", "ascending")]))["row_id"].to_pylist()
        self._chosen = sorted(self._chosen + [(row_id, piece) for row_id in best])[:limit]

    def fetch(self, pieces: list[ds.Fragment], columns: list[str]) -> None:
        """Read the chosen rows, from their row groups alone."""
        for piece in sorted({piece for _, piece in self._chosen}):
            wanted = [row_id for row_id, where in self._chosen if where == piece]
            found = pieces[piece].scanner(columns=columns, filter=pc.field("row_id").isin(wanted), batch_readahead=1)
            self.rows += found.to_table().to_pylist()
        self.rows.sort(key=lambda row: row["row_id"])


@dataclass(frozen=True)
class Survey:
    """What a report shows of a run's rows."""

    score: Histogram
    """Like `margin` with the series ``right``, ``wrong`` (or ``labelled`` without truth) and ``abstained``."""
    margin: Histogram
    link_score: Histogram
    caption_chars: Histogram
    confidence: Histogram
    """The annotator's, with the series of `score`, and ``rejected`` in place of ``abstained``."""
    groups: list[Group]
    """Labelled groups first, then a group a step and reason, the largest first. Empty groups are left out."""
    looked_at: int
    """Rows that this is made of; fewer than `rows` where there are very many."""
    rows: int
    """Rows of the run."""


@dataclass(frozen=True)
class _Part:
    """What is looked at of a dataset."""

    pieces: list[ds.Fragment]
    """Row groups."""
    looked_at: int
    rows: int

    def whole(self, count: int) -> int:
        """Return what a count of the rows looked at comes to in all of them."""
        return round(count * self.rows / self.looked_at) if self.looked_at else 0


def survey(labels: ds.Dataset, rejects: ds.Dataset, sample: int = 8, most_rows: int = MOST_ROWS) -> Survey:
    """Look over a finished run.

    Args:
        labels: the Parquet parts of `schema.LABEL`; may have no rows.
        rejects: the Parquet parts of `schema.REJECT`; may have no rows.
        sample: rows kept for each decision.
        most_rows: of each dataset so many are looked at; about, as files are read whole.

    Returns:
        Distributions of the rows looked at, and groups with at most `sample` rows each.
    """
    kept, left = _part(labels, most_rows), _part(rejects, most_rows)
    score, margin, link_score = Histogram(UNIT_EDGES), Histogram(UNIT_EDGES), Histogram(UNIT_EDGES)
    chars, confidence = Histogram(LENGTH_EDGES), Histogram(UNIT_EDGES)
    for _, table in _scan(kept.pieces, ["entity_id", "truth", "score", "margin", "link_score"], _CHARS | _NOTE):
        for name, mask in _verdicts(table).items():
            score.add(name, table["score"].filter(mask))
            margin.add(name, table["margin"].filter(mask))
            confidence.add(name, table["confidence"].filter(mask))
        link_score.add("labelled", table["link_score"])
        chars.add("labelled", table["chars"])
    groups = _labelled_groups(kept, score, margin, sample) + _reject_groups(left, sample)
    for _, table in _scan(left.pieces, ["reject_reason", "score", "margin", "link_score"], _CHARS | _NOTE):
        abstained = table.filter(pc.is_in(table["reject_reason"], pa.array(_ABSTENTIONS)))
        score.add("abstained", abstained["score"])
        margin.add("abstained", abstained["margin"])
        link_score.add("abstained", abstained["link_score"])
        chars.add("rejected", table["chars"])
        confidence.add("rejected", table["confidence"])
    looked_at, rows = kept.looked_at + left.looked_at, kept.rows + left.rows
    return Survey(score, margin, link_score, chars, confidence, groups, looked_at, rows)


def _part(dataset: ds.Dataset, most_rows: int) -> _Part:
    """Return every n-th file, so that not many more rows than `most_rows` are looked at."""
    rows = dataset.count_rows()
    files = list(dataset.get_fragments())[:: max(1, -(-rows // most_rows))]
    pieces = [piece for file in files for piece in file.split_by_row_group()]
    return _Part(pieces, sum(group.num_rows for piece in pieces for group in piece.row_groups), rows)


def _scan(
    pieces: list[ds.Fragment], columns: list[str], made: dict[str, pc.Expression] | None = None
) -> Iterator[tuple[int, pa.Table]]:
    """Yield each row group's number and its `columns`, and those `made` from expressions."""
    wanted = {name: pc.field(name) for name in columns} | (made or {})
    for number, piece in enumerate(pieces):
        yield number, piece.to_table(columns=wanted)


def _verdicts(table: pa.Table) -> dict[str, np.ndarray]:
    """Return boolean masks [rows]: ``right`` and ``wrong`` where the truth is known, ``labelled`` elsewhere."""
    right = is_true(table, "entity_id")
    known = table["truth"].is_valid().to_numpy()
    masks = {"right": right, "wrong": known & ~right, "labelled": ~known}
    return {name: mask for name, mask in masks.items() if mask.any()}


def _labelled_groups(labels: _Part, scores: Histogram, margins: Histogram, sample: int) -> list[Group]:
    """Sample labelled rows: sure ones, those near a threshold, those where the picture changed the text's answer."""
    low, high, thin = scores.quantile(0.1), scores.quantile(0.5), margins.quantile(0.1)
    groups = {name: Group(name, None) for name in ("high", "near", "overruled", "wrong", *ANNOTATED)}
    columns = ["row_id", "entity_id", "link_entity_id", "truth", "score", "margin"]
    for number, table in _scan(labels.pieces, columns, _NOTE):
        near = pc.or_kleene(pc.less(table["score"], low), pc.less(table["margin"], thin))
        masks = {
            "near": near,
            "high": pc.and_not_kleene(pc.greater_equal(table["score"], high), near),
            "overruled": pc.not_equal(table["link_entity_id"], pc.coalesce(table["candidate_id"], table["entity_id"])),
            "wrong": _verdicts(table).get("wrong", np.zeros(table.num_rows, bool)),
            "verified": pc.equal(table["decision"], "verified"),
            "corrected": pc.and_(pc.equal(table["decision"], "corrected"), table["entity_id"].is_valid()),
            "unresolved": pc.and_(table["decision"].is_valid(), table["entity_id"].is_null()),
        }
        for name, mask in masks.items():
            groups[name].offer(number, table["row_id"].filter(mask), sample)
    return _filled(groups.values(), labels, _SHOWN)


def _reject_groups(rejects: _Part, sample: int) -> list[Group]:
    groups: dict[tuple[str, str], Group] = {}
    for number, table in _scan(rejects.pieces, ["row_id", "reject_step", "reject_reason"]):
        kinds = table.group_by(["reject_step", "reject_reason"]).aggregate([]).to_pylist()
        for kind in kinds:
            step, reason = kind["reject_step"], kind["reject_reason"]
            mask = pc.and_(pc.equal(table["reject_step"], step), pc.equal(table["reject_reason"], reason))
            group = groups.setdefault((step, reason), Group(reason, step))
            group.offer(number, table["row_id"].filter(mask), sample)
    ordered = sorted(groups.values(), key=lambda group: (-group.total, str(group.step), group.decision))
    return _filled(ordered, rejects, _REJECTED)


def _filled(groups: Iterable[Group], part: _Part, columns: list[str]) -> list[Group]:
    kept = [group for group in groups if group.total]
    for group in kept:
        group.fetch(part.pieces, columns)
        group.total = part.whole(group.total)
    return kept

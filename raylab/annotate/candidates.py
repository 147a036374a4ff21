"""What is annotated: the rows of a label store, grouped by entity.

Rows of one entity share most of their prompt (its summary), so an engine that keeps prefixes answers them faster when
they come one after the other. That needs all rows in another order than the input's, hence a pass of its own:

    grouped/<uuid>.parquet   `GROUPED` rows of a segment, by entity, then row id
    GROUPED.json             the pass is over: which file is which segment
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from raylab.label import store
from raylab.label.plan import LabelConfig
from raylab.schema import FLOW, REJECT, set_column
from raylab.storage import Folder

GROUPS = "grouped"
DONE = "GROUPED.json"
GROUPED = pa.schema([*FLOW, pa.field("rescued", pa.bool_(), nullable=False)])
"""Rows to annotate: rows in flight again, and whether the step select had rejected them (rare rows had passed it)."""


@dataclass(frozen=True)
class Taken:
    """Which rows of a label store an annotation run takes."""

    rescue: tuple[str, ...]
    """Rows that were rejected for these reasons, if they have a best candidate."""
    last_row_id: str | None
    """Only rows whose id is not above; None: all. Ids are hashes: the lowest are a random sample."""

    def labels(self, part: pa.Table) -> pa.Table:
        """Return the rows of a labels part that are annotated, as `GROUPED`."""
        part = self._sampled(part)
        return _grouped(part, pa.array([False] * len(part), pa.bool_()))

    def rescued(self, part: pa.Table) -> pa.Table:
        """Return the rows of a rejects part that are annotated, as `GROUPED`."""
        part = self._sampled(part)
        chosen = part.filter(self._can_be_rescued(part))
        by_select = pc.equal(chosen["reject_step"], "select")
        return _grouped(chosen.drop_columns(["reject_step", "reject_reason", "reject_detail"]), by_select)

    def left(self, part: pa.Table) -> pa.Table:
        """Return the rows of a rejects part that stay rejected, as `FLOW`."""
        part = self._sampled(part)
        return _flow(part.filter(pc.invert(self._can_be_rescued(part))))

    def _sampled(self, part: pa.Table) -> pa.Table:
        return part if self.last_row_id is None else part.filter(pc.less_equal(part["row_id"], self.last_row_id))

    def _can_be_rescued(self, part: pa.Table) -> pa.ChunkedArray:
        wanted = pc.is_in(part["reject_reason"], value_set=pa.array(self.rescue, pa.string()))
        return pc.and_(wanted, pc.is_valid(part["entity_id"]))


def _flow(part: pa.Table) -> pa.Table:
    return pa.table({field.name: _column(part, field) for field in FLOW}, FLOW)


def _column(part: pa.Table, field: pa.Field) -> pa.ChunkedArray | pa.Array:
    return part[field.name].cast(field.type) if field.name in part.column_names else pa.nulls(len(part), field.type)


def _grouped(part: pa.Table, rescued: pa.Array | pa.ChunkedArray) -> pa.Table:
    return set_column(_flow(part), "rescued", rescued).cast(GROUPED)


def last_row_id(found: store.LabelStore, rows: int) -> str | None:
    """Return the highest of the `rows` lowest row ids of a store; None where it has no more rows than that."""
    if not rows:
        return None
    lowest = pa.chunked_array([pa.array([], pa.string())])
    total = 0
    for dataset in (found.labels(), found.rejects()):
        for batch in dataset.to_batches(columns=["row_id"]):
            total += batch.num_rows
            both = pa.concat_arrays([*lowest.chunks, batch["row_id"]])
            kept = both.take(pc.array_sort_indices(both).slice(0, rows))
            lowest = pa.chunked_array([kept])
    return lowest[-1].as_py() if total > rows else None


def steps_of(config: LabelConfig) -> Sequence[str]:
    """Return the steps of an annotated run, in order."""
    return (*config.step_configs(), "verify", "questions")


def commit_left(folder: Folder, segment: int, part: pa.Table, taken: Taken, steps: Sequence[str]) -> None:
    """Commit the rows of a rejects part that stay rejected, as a segment of the annotated run."""
    rows = taken.left(part.select(REJECT.names))
    if len(rows):
        store.commit_rows(folder, segment, rows, steps)

"""Reading and extending the nested columns in which the steps leave their evidence, a batch at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raylab.schema import CANDIDATE, MODEL, alive, set_column


@dataclass(frozen=True)
class FlatCandidates:
    """All candidates of a batch in one struct array, row after row."""

    rows: np.ndarray
    """int64 [m]: the row of the batch that each candidate belongs to, ascending."""
    values: pa.StructArray
    """`CANDIDATE` [m]."""

    def field(self, name: str) -> pa.Array:
        """Return one field of all candidates."""
        return self.values.field(CANDIDATE.get_field_index(name))

    def numbers(self, name: str, null: float = np.nan) -> np.ndarray:
        """Return a copy of a numeric field as float64 [m], with `null` for what is null."""
        return np.array(pc.fill_null(self.field(name).cast(pa.float64()), null))


def flat_candidates(batch: pa.Table) -> FlatCandidates:
    """Return the candidates of every row, rejected rows' too."""
    column = _one_array(batch["candidates"])
    values = column.flatten()
    return FlatCandidates(pc.list_parent_indices(column).to_numpy(zero_copy_only=False).astype(np.int64), values)


def replace_fields(batch: pa.Table, flat: FlatCandidates, fields: dict[str, pa.Array]) -> pa.Table:
    """Return the batch with these fields of its candidates replaced.

    Args:
        batch: the batch that `flat` was taken from.
        flat: its candidates.
        fields: field name -> `CANDIDATE`'s type [m].
    """
    columns = [fields.get(field.name, flat.field(field.name)) for field in CANDIDATE]
    values = pa.StructArray.from_arrays(columns, fields=list(CANDIDATE))
    return set_column(batch, "candidates", _regroup(batch["candidates"], flat.rows, values))


def append_candidates(batch: pa.Table, rows: np.ndarray, values: pa.StructArray) -> pa.Table:
    """Return the batch with candidates added behind those that its rows have.

    Args:
        batch: rows in flight.
        rows: int64 [m], ascending: where each new candidate goes.
        values: `CANDIDATE` [m].
    """
    old = flat_candidates(batch)
    all_rows = np.concatenate([old.rows, rows])
    order = np.argsort(all_rows, kind="stable")
    merged = pa.concat_arrays([old.values, values]).take(pa.array(order))
    return set_column(batch, "candidates", _regroup(batch["candidates"], all_rows[order], merged))


def note_model(batch: pa.Table, step: str, model: str) -> pa.Table:
    """Return the batch with ``step: model`` added to `models` of the rows that are still in the flow."""
    column = _one_array(batch["models"])
    old_rows = np.repeat(np.arange(len(column)), pc.fill_null(pc.list_value_length(column), 0).to_numpy())
    new_rows = np.flatnonzero(_one_array(alive(batch)).to_numpy(zero_copy_only=False))
    all_rows = np.concatenate([old_rows, new_rows])
    order = np.argsort(all_rows, kind="stable")
    note = pa.scalar({"step": step, "model": model}, MODEL)
    values = pa.concat_arrays([column.flatten(), pa.repeat(note, len(new_rows))]).take(pa.array(order))
    return set_column(batch, "models", _regroup(batch["models"], all_rows[order], values))


def _regroup(like: pa.ChunkedArray, rows: np.ndarray, values: pa.StructArray) -> pa.ListArray:
    """Put flat values back into lists; a list that was null stays so unless it has got a value."""
    lengths = np.bincount(rows, minlength=len(like))
    null = pc.and_(_one_array(pc.is_null(like)), pa.array(lengths == 0))
    return pa.ListArray.from_arrays(_offsets(lengths), values, pa.list_(values.type), mask=null)


def _offsets(lengths: np.ndarray) -> pa.Int32Array:
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())


def _one_array(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column

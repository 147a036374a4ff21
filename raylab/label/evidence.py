"""Reading and extending the nested columns in which the steps leave their evidence, a batch at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raylab.schema import CANDIDATE, MODELS, alive, set_column


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
    mask = _one_array(alive(batch)).to_numpy(zero_copy_only=False)
    old_rows = np.repeat(np.arange(len(column)), pc.fill_null(pc.list_value_length(_as_list(column)), 0).to_numpy())
    all_rows = np.concatenate([old_rows, np.flatnonzero(mask)])
    order = pa.array(np.argsort(all_rows, kind="stable"))
    count = int(mask.sum())
    keys = pa.concat_arrays([_as_list(column).flatten().field(0), pa.array([step] * count, pa.string())]).take(order)
    items = pa.concat_arrays([_as_list(column).flatten().field(1), pa.array([model] * count, pa.string())]).take(order)
    lengths = np.bincount(all_rows, minlength=len(column))
    empty = pc.and_(pc.is_null(column), pa.array(lengths == 0))
    return set_column(batch, "models", pa.MapArray.from_arrays(_offsets(lengths), keys, items, MODELS, mask=empty))


def _regroup(like: pa.ChunkedArray, rows: np.ndarray, values: pa.StructArray) -> pa.ListArray:
    """Put flat values back into lists; a list that was null stays so unless it has got a value."""
    lengths = np.bincount(rows, minlength=len(like))
    null = pc.and_(_one_array(pc.is_null(like)), pa.array(lengths == 0))
    return pa.ListArray.from_arrays(_offsets(lengths), values, pa.list_(CANDIDATE), mask=null)


def _offsets(lengths: np.ndarray) -> pa.Int32Array:
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())


def _one_array(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _as_list(column: pa.MapArray) -> pa.ListArray:
    return column.cast(pa.list_(pa.struct([pa.field("key", pa.string(), False), pa.field("value", pa.string())])))

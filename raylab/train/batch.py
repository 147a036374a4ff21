"""Arrays of rows as Arrow tables, the form in which they travel, and back as batches of one size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa

from raylab.tasks.base import Arrays


def to_table(arrays: Arrays) -> pa.Table:
    """Return arrays [n, ...] as a table of n rows; what has more axes becomes a fixed-shape tensor column."""
    return pa.table({name: _column(values) for name, values in arrays.items()})


def _column(values: np.ndarray) -> pa.Array:
    if values.ndim == 1:
        return pa.array(values)
    return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(values))


def to_arrays(table: pa.Table) -> Arrays:
    """Undo `to_table`."""
    return {name: _values(table[name].combine_chunks()) for name in table.column_names}


def _values(column: pa.Array) -> np.ndarray:
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks)
    if isinstance(column, pa.FixedShapeTensorArray):
        return column.to_numpy_ndarray()
    return column.to_numpy(zero_copy_only=False)


def batches(tables: Iterable[pa.Table], rows: int) -> Iterator[Arrays]:
    """Cut a stream of tables into batches of `rows` rows, in order; what does not fill one at the end is left out."""
    held: list[pa.Table] = []
    have = 0
    for table in tables:
        held.append(table)
        have += table.num_rows
        while have >= rows:
            joined = pa.concat_tables(held)
            yield to_arrays(joined.slice(0, rows))
            held, have = [joined.slice(rows)], have - rows

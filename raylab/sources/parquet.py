"""Parquet files whose rows hold an image (its bytes or its path) and a caption.

A shard is a run of row groups of one file. The image column may be

* binary: the image's bytes. An image reference then holds the file and the row's number in it;
* a struct with ``bytes`` and, optionally, ``path``, as Hugging Face datasets writes it: the bytes, or the path in row
  groups whose statistics say that all bytes are null;
* text: the path of an image file, relative to the Parquet file, see `filesystem.resolve_inside`.

`SourceConfig.columns.image` set to ``""`` reads captions alone: rows then have no image, and none is asked for.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, groupby
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raylab.errors import RaylabError
from raylab.schema import Reason
from raylab.sources.base import Columns, Shard, SourceConfig
from raylab.sources.filesystem import IO_ERRORS, File, file_name, open_file
from raylab.sources.rows import ImageRef, Record, Refusal, as_key, image_in_file, missing_column

SUFFIXES = (".parquet", ".pq")

SHARD_ROWS = 10_000
"""Row groups are joined to a shard until it holds this many rows."""

IMAGE_BATCH_ROWS = 32
"""Rows of the image column held at a time while images are read."""

_BUFFER = 4 * 2**20


def list_shards(file: File, config: SourceConfig) -> list[Shard]:
    """Return one shard for each run of row groups; a file that cannot be read is one shard that says so when read.

    Raises:
        RaylabError: the image or caption column is missing, or of a type that cannot be one.
    """
    whole = Shard(name=file.name, uri=file.uri, version=file.version, size=file.size)
    if not file.size:
        return [whole]
    try:
        with open_file(file.uri, read_ahead=0) as stream:
            footer = pq.ParquetFile(stream)
            schema, metadata = footer.schema_arrow, footer.metadata
    except PermissionError:
        raise
    except IO_ERRORS:
        return [whole]
    check_columns(schema, config.columns, file.uri)
    return [
        Shard(
            name=f"{file.name}#{first}-{last}",
            uri=file.uri,
            version=file.version,
            size=sum(metadata.row_group(group).total_byte_size for group in range(first, last + 1)),
        )
        for first, last in _runs([metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)])
    ] or [whole]


def _runs(rows: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield (first, last) row group of each shard."""
    first = total = 0
    for group, count in enumerate(rows):
        total += count
        if total >= SHARD_ROWS or group == len(rows) - 1:
            yield first, group
            first, total = group + 1, 0


def check_columns(schema: pa.Schema, columns: Columns, uri: str) -> None:
    """Raise `RaylabError` unless the needed columns are there, once, with types that can be read."""
    for option, name in (("image", columns.image), ("caption", columns.caption)):
        if name and name not in schema.names:
            raise missing_column(uri, name, schema.names, option)
    for name in filter(None, vars(columns).values()):
        if schema.names.count(name) > 1:
            raise RaylabError(f"{uri}: has {schema.names.count(name)} columns {name!r}. Rename all but one.")
    if columns.image and _image_kind(schema.field(columns.image).type) is None:
        kind = schema.field(columns.image).type
        raise RaylabError(
            f"{uri}: column {columns.image!r} is {kind}; an image is binary, text or a struct with bytes."
        )
    if not _is_caption(kind := schema.field(columns.caption).type):
        raise RaylabError(f"{uri}: column {columns.caption!r} is {kind}; a caption is text or a list of texts.")


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _is_caption(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    return _is_text(kind) or _is_binary(kind) or pa.types.is_null(kind)


def _image_kind(kind: pa.DataType) -> str | None:
    """Return "bytes", "struct", "path" or "null", or None for a type that cannot be an image."""
    if pa.types.is_struct(kind):
        return "struct" if "bytes" in {kind.field(index).name for index in range(kind.num_fields)} else None
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if _is_binary(kind):
        return "bytes"
    return "path" if _is_text(kind) else "null" if pa.types.is_null(kind) else None


def read_records(shard: Shard, config: SourceConfig) -> Iterator[Record]:
    """Yield one record a row; the image column is read only where it holds paths."""
    if not shard.size:
        return
    run = shard.name.removeprefix(file_name(shard.name)).removeprefix("#")
    with open_file(shard.uri, read_ahead=0) as stream:
        file = pq.ParquetFile(stream, pre_buffer=True)
        check_columns(file.schema_arrow, config.columns, shard.uri)
        first, last = map(int, run.split("-")) if run else (0, file.num_row_groups - 1)
        start = sum(file.metadata.row_group(group).num_rows for group in range(first))
        for group in range(first, last + 1):
            yield from _read_group(file, group, start, shard, config)
            start += file.metadata.row_group(group).num_rows


def _read_group(file: pq.ParquetFile, group: int, start: int, shard: Shard, config: SourceConfig) -> Iterator[Record]:
    columns = config.columns
    kind = _kind_in_group(file, group, columns.image)
    image_column = {"path": columns.image, "struct path": f"{columns.image}.path"}.get(kind)
    names = [columns.caption, columns.key, columns.url, columns.licence]
    names = [name for name in dict.fromkeys(names) if name in file.schema_arrow.names]
    wanted = [*names, image_column] if image_column and image_column not in names else names
    for batch in file.iter_batches(config.chunk_rows, row_groups=[group], columns=wanted, use_threads=False):
        cells = {name: _cells(batch.column(name)) for name in names}
        paths = _paths(batch, columns.image) if image_column else None
        for index in range(batch.num_rows):
            row = {name: values[index] for name, values in cells.items()}
            image, problem = _image(kind, paths[index] if paths else None, start + index, shard)
            key = as_key(row.get(columns.key))
            yield Record(
                str(start + index) if key is None else key,
                row[columns.caption],
                image,
                as_key(row.get(columns.url)),
                as_key(row.get(columns.licence)),
                problem,
            )
        start += batch.num_rows


def _kind_in_group(file: pq.ParquetFile, group: int, column: str) -> str:
    """Return where the images of a row group are: "none", "bytes", "path", "struct path" or "null"."""
    if not column:
        return "none"
    kind = _image_kind(file.schema_arrow.field(column).type)
    leaf = f"{column}.bytes" if kind == "struct" else column
    metadata = file.metadata.row_group(group)
    chunks = {chunk.path_in_schema: chunk for chunk in map(metadata.column, range(metadata.num_columns))}
    statistics = chunks[leaf].statistics if leaf in chunks else None
    all_null = statistics is not None and statistics.has_null_count and statistics.null_count == metadata.num_rows
    if kind in ("path", "null"):
        return kind
    if not all_null:
        return "bytes"
    return "struct path" if kind == "struct" and f"{column}.path" in chunks else "null"


def _paths(batch: pa.RecordBatch, column: str) -> list[Any]:
    values = batch.column(column)
    return _cells(values.field("path") if pa.types.is_struct(values.type) else values)


def _image(kind: str, path: object, row: int, shard: Shard) -> tuple[ImageRef | None, Refusal | None]:
    if kind == "bytes":
        return (shard.uri, row, -1), None
    return image_in_file(path, shard)


def _cells(column: pa.Array) -> list[Any]:
    """Return a column's values; texts that are not UTF-8 come with lone surrogates instead of an error."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.dictionary_decode()
        kind = column.type
    if _is_text(kind) or _is_binary(kind):
        return [_decode(value) for value in column.cast(pa.large_binary()).to_pylist()]
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        if not _is_text(kind.value_type):
            return column.to_pylist()
        lists = column.cast(pa.large_list(pa.large_binary())).to_pylist()
        return [None if values is None else [_decode(value) for value in values] for values in lists]
    return column.to_pylist()


def _decode(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "surrogateescape")


class ImageReader:
    """Reads single images out of Parquet files, forward through one row group at a time.

    A step asks for the rows of a shard in order, chunk by chunk: the reader keeps its place, so that each image is
    read once and at most `IMAGE_BATCH_ROWS` images are held, however large a row group is. Going back starts the row
    group again.
    """

    def __init__(self, column: str) -> None:
        self._column = column
        self._cursor: _Cursor | None = None

    def read(self, uri: str, rows: Sequence[int]) -> dict[int, bytes | Reason]:
        """Return the bytes in each of `rows` (numbers in the file), or the reason why there are none.

        A damaged page costs the rows of its row group from there on.
        """
        found: dict[int, bytes | Reason] = dict.fromkeys(rows, Reason.IMAGE_UNREADABLE)
        try:
            if self._cursor is None or self._cursor.uri != uri:
                self._cursor = _Cursor(uri, self._column)
        except (*IO_ERRORS, LookupError):
            return found
        for _, group in groupby(sorted(found), key=self._cursor.group_of):
            try:
                for row in group:
                    found[row] = self._cursor.value(row)
            except (*IO_ERRORS, LookupError):
                self._cursor.leave()
        return found


class _Cursor:
    """A place in the image column of one file."""

    def __init__(self, uri: str, column: str) -> None:
        self.uri = uri
        self._file = pq.ParquetFile(open_file(uri, read_ahead=0), buffer_size=_BUFFER)
        kind = _image_kind(self._file.schema_arrow.field(column).type)
        self._column, self._leaf = column, f"{column}.bytes" if kind == "struct" else column
        groups = map(self._file.metadata.row_group, range(self._file.num_row_groups))
        self._starts = [0, *accumulate(group.num_rows for group in groups)]
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._values: pa.Array = pa.array([], pa.binary())
        self.leave()

    def leave(self) -> None:
        """Give up the row group that is being read."""
        self._group = -1
        self._first = self._next = 0

    def group_of(self, row: int) -> int:
        return bisect_right(self._starts, row) - 1

    def value(self, row: int) -> bytes | Reason:
        if not self._first <= row < self._next:
            self._go_to(row)
        value = self._values[row - self._first].as_py()
        if value is None:
            return Reason.MISSING_IMAGE
        return value or Reason.IMAGE_EMPTY

    def _go_to(self, row: int) -> None:
        if not 0 <= row < self._starts[-1]:
            raise IndexError(f"{self.uri} has {self._starts[-1]} rows, row {row} is asked for")
        group = self.group_of(row)
        if group != self._group or row < self._first:
            self._group, self._next = group, self._starts[group]
            self._batches = self._file.iter_batches(
                IMAGE_BATCH_ROWS, row_groups=[group], columns=[self._leaf], use_threads=False
            )
        while self._next <= row:
            values = next(self._batches).column(self._column)
            self._first, self._next = self._next, self._next + len(values)
            self._values = values.field("bytes") if pa.types.is_struct(values.type) else values

"""A folder of images with a table that names them: CSV, TSV or JSON Lines, plain or compressed (.gz, .bz2, .xz).

The image column holds paths relative to the table's folder, see `filesystem.resolve_inside`. One broken line costs
one row:

* JSON Lines are read line by line. A large plain file is cut at line ends into shards of `SHARD_BYTES`.
* CSV and TSV follow RFC 4180, see `csvlines`.
* Text that is not UTF-8 costs its own row alone.

Where there is no key column, a row's key is its number, from 0, in the shard. CSV and TSV cannot be cut before they are
read, because a line end may lie inside quotes: a table of many millions of rows is better off as Parquet.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import IO, Any

from raylab.schema import Reason
from raylab.sources.base import Columns, Shard, SourceConfig
from raylab.sources.csvlines import MAX_LINE_BYTES, CsvLines, read_lines
from raylab.sources.filesystem import IO_ERRORS, File, file_name, open_file
from raylab.sources.rows import Record, Refusal, as_key, image_in_file, missing_column, parse_object

DELIMITERS = {".csv": ",", ".tsv": "\t"}
COMPRESSIONS = ("", ".gz", ".bz2", ".xz")
JSON_SUFFIXES = (".jsonl", ".ndjson")
SUFFIXES = tuple(kind + packed for kind in (*DELIMITERS, *JSON_SUFFIXES) for packed in COMPRESSIONS)

SHARD_BYTES = 16 * 2**20
"""Bytes of JSON Lines in a shard. Part of the shards' names, and so of the row ids."""

_LOOK_AHEAD = 100

Row = dict[str, Any]


def list_shards(file: File, config: SourceConfig) -> list[Shard]:
    """Return the table as one shard, or as several where it is large JSON Lines.

    The first shard has the file's name, whatever its size, so that rows keep their ids while a file grows.

    Raises:
        RaylabError: its header (for JSON Lines: none of its first rows) has the image or the caption column.
    """
    shard = Shard(name=file.name, uri=file.uri, version=file.version, size=file.size)
    try:
        present = _columns(shard) if file.size else []
    except PermissionError:
        raise
    except (*IO_ERRORS, EOFError):
        present = []  # read() says what is wrong with the file
    if present:
        for option, name in (("image", config.columns.image), ("caption", config.columns.caption)):
            if name and name not in present:
                raise missing_column(file.uri, name, present, option)
    return [shard] if not file.name.lower().endswith(JSON_SUFFIXES) or not file.size else list(_cut(shard))


def _cut(whole: Shard) -> Iterator[Shard]:
    for start in range(0, whole.size, SHARD_BYTES):
        name = f"{whole.name}#{start}-{start + SHARD_BYTES}" if start else whole.name
        yield replace(whole, name=name, size=min(SHARD_BYTES, whole.size - start))


def _columns(shard: Shard) -> list[str]:
    """Return the names in the table's header, or in the first rows of JSON Lines; none where there are no rows."""
    with open_file(shard.uri, compression="infer") as stream:
        delimiter = _delimiter(file_name(shard.name))
        if delimiter is not None:
            return CsvLines(stream, delimiter, shard.uri).header
        rows = islice(_json_rows(read_lines(stream)), _LOOK_AHEAD)
        return list(dict.fromkeys(name for row, _ in rows for name in row))


def _delimiter(name: str) -> str | None:
    """Return the delimiter of a CSV or TSV table by its name, None for JSON Lines."""
    return next((delimiter for ending, delimiter in DELIMITERS.items() if ending in name.lower()[-8:]), None)


def read_records(shard: Shard, config: SourceConfig) -> Iterator[Record]:
    """Yield one record a row of the table."""
    if not shard.size:
        return
    for number, (row, problem) in enumerate(read_rows(shard)):
        yield _record(row, problem, number, shard, config.columns)


def _record(row: Row, problem: Refusal | None, number: int, shard: Shard, columns: Columns) -> Record:
    if problem:
        return Record(f"line {number}", problem=problem)
    key = as_key(row.get(columns.key))
    image, problem = image_in_file(row.get(columns.image), shard) if columns.image else (None, None)
    return Record(
        str(number) if key is None else key,
        row.get(columns.caption),
        image,
        as_key(row.get(columns.url)),
        as_key(row.get(columns.licence)),
        problem,
    )


def read_rows(shard: Shard) -> Iterator[tuple[Row, Refusal | None]]:
    """Yield each row as name -> cell, or what is wrong with it."""
    with open_file(shard.uri, compression="infer") as stream:
        delimiter = _delimiter(file_name(shard.name))
        if delimiter is None:
            yield from _json_rows(_lines_of_shard(stream, shard.name))
            return
        for row, error in CsvLines(stream, delimiter, shard.uri):
            yield row, None if error is None else (Reason.BAD_ROW, error)


def _lines_of_shard(stream: IO[bytes], name: str) -> Iterator[bytes]:
    """Return the lines that begin in the shard's bytes."""
    table = file_name(name)
    if not table.lower().endswith(JSON_SUFFIXES):
        return read_lines(stream)
    start = int(name[len(table) + 1 :].partition("-")[0] or 0)
    if not start:
        return read_lines(stream, SHARD_BYTES)
    stream.seek(start - 1)
    lines = read_lines(stream, SHARD_BYTES + 1)
    next(lines, None)  # the end of the shard before: a line that began there, or its line feed alone
    return lines


def _json_rows(lines: Iterator[bytes]) -> Iterator[tuple[Row, Refusal | None]]:
    for line in lines:
        if len(line) > MAX_LINE_BYTES:
            yield {}, (Reason.BAD_ROW, f"a line of more than {MAX_LINE_BYTES} bytes")
        elif line.strip():
            yield parse_object(line)

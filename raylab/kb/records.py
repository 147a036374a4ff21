"""Rows on their way into a knowledge base: what a reader hands over, and what it had to leave out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from raylab.kb.hashing import hash_strings
from raylab.schema import ENTITY

RAW = pa.schema([field.with_nullable(True) for field in ENTITY])
"""`schema.ENTITY` before the sources are merged: a title may still come from another source."""

SAMPLES = 5
"""Bad lines of each piece that are kept word for word."""


class BadLine(ValueError):
    """A line that cannot become a row; the message is its reason, a short constant."""


@dataclass(frozen=True)
class Piece:
    """A part of one input file that one task reads."""

    path: str
    start: int = 0
    end: int = -1
    """Bytes; -1: the whole file."""
    size: int = 0
    """Bytes of the file that this piece stands for: an estimate of the work."""


@dataclass
class Report:
    """What became of a piece's lines. Counts close: lines = rows + bad + dropped."""

    path: str
    lines: int = 0
    rows: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    """Broken lines by reason."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Sound lines left out on purpose, by reason."""
    mended: Counter[str] = field(default_factory=Counter)
    """Lines with a fault that could be put right, by reason; they count among the rows."""
    samples: list[tuple[int, str, str]] = field(default_factory=list)
    """The first bad lines: number in the piece (from 1), reason, first 200 characters."""
    spills: list[str] = field(default_factory=list)
    """The files that hold the rows."""
    types: set[str] = field(default_factory=set)
    """All types that occur."""
    edges: list[tuple[str, str]] = field(default_factory=list)
    """"Subclass of" pairs found on the way, until they are written."""
    edge_spills: list[str] = field(default_factory=list)
    """The files that hold them."""

    def add_bad(self, reason: str, line: bytes | str) -> None:
        """Count the current line as broken."""
        self.bad[reason] += 1
        if len(self.samples) < SAMPLES:
            text = line.decode("utf-8", "replace") if isinstance(line, bytes) else line
            self.samples.append((self.lines, reason, text.strip()[:200]))


def check_text(value: object, what: str) -> str | None:
    """Return a text field, stripped; None for an empty or missing one.

    Raises:
        BadLine: it is no text, or text that no file can hold (lone surrogates, NUL).
    """
    if value is None:
        return None
    if not isinstance(value, str):
        raise BadLine(f"{what} is not text")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise BadLine(f"{what} is not valid Unicode") from error
    if "\0" in value:
        raise BadLine(f"{what} holds NUL")
    return value.strip() or None


def check_number(value: Any, what: str) -> float | None:
    """Return a number of 0 or more; None for a missing one.

    Raises:
        BadLine: it is none.
    """
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise BadLine(f"{what} is not a number") from error
    if not (math.isfinite(number) and number >= 0):
        raise BadLine(f"{what} is not a number of 0 or more")
    return number


def tables(rows: Iterable[dict[str, Any]], size: int = 50_000) -> Iterator[pa.Table]:
    """Gather `ENTITY` dicts into `RAW` tables of at most `size` rows."""
    columns: dict[str, list] = {name: [] for name in RAW.names}
    appends = [(name, column.append) for name, column in columns.items()]
    for count, row in enumerate(rows, 1):
        for name, append in appends:
            append(row.get(name))
        if count % size == 0:
            yield pa.table(columns, schema=RAW)
            for column in columns.values():
                column.clear()
    if columns["id"]:
        yield pa.table(columns, schema=RAW)


def partition_of(hashes: np.ndarray, partitions: int) -> np.ndarray:
    """Return the partition of each hash: equal ranges of hash space, so partitions in a row are sorted as a whole."""
    return ((hashes >> np.uint64(32)) * np.uint64(partitions) >> np.uint64(32)).astype(np.int64)


def write_spill(rows: Iterable[pa.Table], path: Path, partitions: int) -> None:
    """Write `RAW` tables as an Arrow file of exactly `partitions` record batches: the p-th holds partition p."""
    table = pa.concat_tables([RAW.empty_table(), *rows]).combine_chunks()
    part = partition_of(hash_strings(table["id"]), partitions)
    table = table.take(pa.array(np.argsort(part, kind="stable")))
    bounds = np.searchsorted(np.sort(part), np.arange(partitions + 1))
    with pa.ipc.new_file(path, RAW) as writer:
        for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            chunks = table.slice(start, stop - start).combine_chunks().to_batches()
            writer.write_batch(chunks[0] if chunks else pa.RecordBatch.from_pylist([], RAW))


def read_spill(paths: Iterable[Path], partition: int) -> pa.Table:
    """Return one partition's rows of several spill files, in the files' order."""
    batches = []
    for path in paths:
        with pa.memory_map(str(path)) as source:
            batches.append(pa.ipc.open_file(source).get_batch(partition))
    return pa.Table.from_batches(batches, RAW).combine_chunks()


def take(table: pa.Table, rows: np.ndarray) -> pa.Table:
    """Gather rows of a table of many chunks without joining the chunks first."""
    chunks = table.to_batches()
    bounds = np.cumsum([0, *(chunk.num_rows for chunk in chunks)])
    order = np.argsort(rows, kind="stable")
    edges = np.searchsorted(rows[order], bounds)
    parts = [
        chunk.take(pa.array(rows[order[start:stop]] - base))
        for chunk, base, start, stop in zip(chunks, bounds[:-1], edges[:-1], edges[1:])
        if stop > start
    ]
    back = np.empty(len(rows), np.int64)
    back[order] = np.arange(len(rows))
    return pa.Table.from_batches(parts, table.schema).combine_chunks().take(pa.array(back)).combine_chunks()

"""Catalogues of entities that people already have: JSON lines or CSV, packed or not, under the usual field names."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain
from typing import Any

from raylab.errors import RaylabError
from raylab.kb.lines import lines, pieces
from raylab.kb.records import BadLine, Piece, Report, check_number, check_text

MINIWORLD = "miniworld://"

FIELDS = {
    "id": ("id", "qid"),
    "title": ("title", "label", "name"),
    "aliases": ("aliases", "alias", "lemmas", "synonyms"),
    "description": ("description", "definition"),
    "summary": ("summary", "abstract"),
    "types": ("types", "p31", "instance_of"),
    "popularity": ("popularity", "pagerank", "pageviews"),
}
"""The names under which each `schema.ENTITY` field is looked for, first found first taken."""

LIST_SEPARATOR = "|"
"""Between the members of a list in a CSV cell."""


def catalogue_pieces(path: str) -> list[Piece]:
    """Cut a catalogue for parallel reading.

    Args:
        path: a ``.jsonl``, ``.csv`` or ``.tsv`` file, ``.gz`` or ``.bz2`` may follow, or ``miniworld://``.

    Raises:
        RaylabError: no such file, or another kind of file.
    """
    if path == MINIWORLD:
        return [Piece(path)]
    if _plain_name(path).endswith((".csv", ".tsv")):
        return [Piece(path, size=sum(piece.size for piece in pieces(path)))]  # quoted cells may hold line ends: no cut
    if _plain_name(path).endswith((".jsonl", ".ndjson")):
        return pieces(path)
    raise RaylabError(f"{path}: a catalogue is a .jsonl, .csv or .tsv file (.gz or .bz2 may follow), or {MINIWORLD}")


def read_catalogue(piece: Piece, report: Report) -> Iterator[dict[str, Any]]:
    """Yield `schema.ENTITY` dicts; what cannot be read is counted in `report`."""
    if piece.path == MINIWORLD:
        from raylab.sources.miniworld.catalogue import kb_rows

        for row in kb_rows():
            report.lines += 1
            yield row
        return
    for line, record in records(piece, report):
        try:
            yield entity(record)
        except BadLine as error:
            report.add_bad(str(error), line)


def entity(record: dict[str, Any]) -> dict[str, Any]:
    """Return one record under the names of `schema.ENTITY`.

    Raises:
        BadLine: no id, or a field of the wrong kind.
    """
    row: dict[str, Any] = {}
    for name, spellings in _spellings(tuple(record)):
        row[name] = next((record[key] for key in spellings if record[key] not in (None, "")), None)
    for name in ("id", "title", "description", "summary"):
        row[name] = check_text(row[name], name)
    if row["id"] is None:
        raise BadLine("no id")
    for name in ("aliases", "types"):
        row[name] = _texts(row[name], name)
    if row["title"] is None and row["aliases"]:
        row["title"] = row["aliases"][0]
    row["popularity"] = check_number(row["popularity"], "popularity")
    return row


@lru_cache(1024)
def _spellings(keys: tuple[str, ...]) -> list[tuple[str, list[str]]]:
    """Return, for each field, those of its spellings that a record with these keys has."""
    return [(name, [key for key in spellings if key in keys]) for name, spellings in FIELDS.items()]


def read_edges(path: str) -> Iterator[tuple[str, str]]:
    """Yield "subclass of" pairs: a type and one directly above it.

    Args:
        path: JSON lines or CSV with ``qid`` (or ``id``) and ``subclass_of`` (or ``p279``), one parent or a list.

    Raises:
        RaylabError: no such file, or not one usable pair.
    """
    found = False
    for piece in catalogue_pieces(path):
        for _, record in records(piece, Report(path)):
            kind = record.get("qid") or record.get("id")
            above = record.get("subclass_of") or record.get("p279") or []
            for parent in [above] if isinstance(above, str) else above:
                if isinstance(kind, str) and isinstance(parent, str):
                    found = True
                    yield kind, parent
    if not found:
        raise RaylabError(f"{path} holds no pair of qid and subclass_of")


def _texts(value: object, what: str) -> list[str]:
    if value is None:
        return []
    members = value.split(LIST_SEPARATOR) if isinstance(value, str) else value
    if not isinstance(members, list):
        raise BadLine(f"{what} is not a list")
    return [text for text in (check_text(member, what) for member in members) if text]


def records(
    piece: Piece, report: Report, headless: tuple[str, ...] | None = None
) -> Iterator[tuple[bytes | str, dict[str, Any]]]:
    """Yield (line, record) of a JSON-lines, CSV, TSV or Parquet file; broken lines are counted in `report`.

    Args:
        piece: what to read.
        report: where lines are counted.
        headless: column names of a CSV file whose first line holds data already; None: the first line names them.

    Raises:
        RaylabError: the file cannot be read, or is of another kind.
    """
    name = _plain_name(piece.path)
    if name.endswith((".jsonl", ".ndjson")):
        return _json_records(piece, report)
    if name.endswith((".csv", ".tsv", ".txt")):
        return _csv_records(piece, report, headless)
    if name.endswith(".parquet"):
        return _parquet_records(piece, report)
    raise RaylabError(f"{piece.path}: a table is a .jsonl, .csv, .tsv or .parquet file (.gz or .bz2 may follow).")


def _parquet_records(piece: Piece, report: Report) -> Iterator[tuple[str, dict[str, Any]]]:
    import fsspec
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with fsspec.open(piece.path, "rb") as file:
            for batch in pq.ParquetFile(file).iter_batches(10_000):
                for record in batch.to_pylist():
                    report.lines += 1
                    yield str(record)[:200], record
    except (OSError, pa.ArrowInvalid) as error:
        raise RaylabError(f"{piece.path} cannot be read as Parquet ({error}).") from error


def _json_records(piece: Piece, report: Report) -> Iterator[tuple[bytes, dict[str, Any]]]:
    for line in lines(piece):
        report.lines += 1
        if line.isspace():
            report.dropped["blank line"] += 1
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
            report.add_bad("not JSON", line)
            continue
        if isinstance(record, dict):
            yield line, record
        else:
            report.add_bad("not a JSON object", line)


def _csv_records(
    piece: Piece, report: Report, headless: tuple[str, ...] | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    delimiter = "," if ".csv" in piece.path else "\t"
    text = (line.decode("utf-8", "surrogateescape").removeprefix("\ufeff") for line in lines(piece))
    reader = csv.reader(text, delimiter=delimiter)
    first = next(reader, [])
    names = [name.strip().lower() for name in first]
    rows: Iterator[list[str]] = reader
    if headless and len(names) == len(headless) and not set(names) & {"title", *FIELDS["id"]}:
        names, rows = list(headless), chain([first], reader)
    elif not headless and not set(names) & set(FIELDS["id"]):
        wanted = " or ".join(FIELDS["id"])
        raise RaylabError(f"{piece.path} has no column {wanted}; its columns: {', '.join(names) or 'none'}")
    while True:
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            report.lines += 1
            report.add_bad("not CSV", str(error))
            continue
        report.lines += 1
        if len(cells) == len(names):
            yield delimiter.join(cells), dict(zip(names, cells))
        elif cells:
            report.add_bad("wrong number of cells", delimiter.join(cells))
        else:
            report.dropped["blank line"] += 1


def _plain_name(path: str) -> str:
    name = path.lower()
    for suffix in (".gz", ".bz2", ".xz", ".zst"):
        name = name.removesuffix(suffix)
    return name

"""Catalogues of entities that people already have: JSON lines or CSV, packed or not, under the usual field names."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from typing import Any

from raylab.errors import RaylabError
from raylab.kb.lines import lines, pieces
from raylab.kb.records import BadLine, Piece, Report, check_text

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
        from raylab.sources.miniworld import kb_rows

        for row in kb_rows():
            report.lines += 1
            yield row
        return
    records = _json_records(piece, report) if "json" in _plain_name(piece.path) else _csv_records(piece, report)
    for line, record in records:
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
    for name, spellings in FIELDS.items():
        row[name] = next((record[key] for key in spellings if record.get(key) not in (None, "")), None)
    for name in ("id", "title", "description", "summary"):
        row[name] = check_text(row[name], name)
    if row["id"] is None:
        raise BadLine("no id")
    for name in ("aliases", "types"):
        row[name] = _texts(row[name], name)
    if row["title"] is None and row["aliases"]:
        row["title"] = row["aliases"][0]
    row["popularity"] = _number(row["popularity"])
    return row


def read_edges(path: str) -> dict[str, list[str]]:
    """Read "subclass of" pairs into type -> its direct parents.

    Args:
        path: JSON lines or CSV with the fields ``qid`` (or ``id``) and ``subclass_of`` (or ``p279``), one parent or a list.

    Raises:
        RaylabError: no such file, or not one usable pair.
    """
    parents: dict[str, list[str]] = {}
    for piece in catalogue_pieces(path):
        report = Report(path)
        records = _json_records(piece, report) if "json" in _plain_name(path) else _csv_records(piece, report)
        for _, record in records:
            kind = record.get("qid") or record.get("id")
            above = record.get("subclass_of") or record.get("p279") or []
            for parent in [above] if isinstance(above, str) else above:
                if isinstance(kind, str) and isinstance(parent, str):
                    parents.setdefault(kind, []).append(parent)
    if not parents:
        raise RaylabError(f"{path} holds no pair of qid and subclass_of")
    return parents


def _texts(value: object, what: str) -> list[str]:
    if value is None:
        return []
    members = value.split(LIST_SEPARATOR) if isinstance(value, str) else value
    if not isinstance(members, list):
        raise BadLine(f"{what} is not a list")
    return [text for text in (check_text(member, what) for member in members) if text]


def _number(value: object) -> float | None:
    if value is None:
        return None
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise BadLine("popularity is not a number") from error
    if not math.isfinite(number) or number < 0:
        raise BadLine("popularity is not a number")
    return number


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


def _csv_records(piece: Piece, report: Report) -> Iterator[tuple[str, dict[str, Any]]]:
    delimiter = "\t" if ".tsv" in piece.path else ","
    text = (
        line.decode("utf-8-sig" if number == 0 else "utf-8", "surrogateescape")
        for number, line in enumerate(lines(piece))
    )
    reader = csv.reader(text, delimiter=delimiter)
    header = next(reader, [])
    names = {name.strip().lower() for name in header}
    if not names & set(FIELDS["id"]):
        wanted = " or ".join(FIELDS["id"])
        raise RaylabError(f"{piece.path} has no column {wanted}; its columns: {', '.join(header) or 'none'}")
    while True:
        report.lines += 1
        try:
            cells = next(reader)
        except StopIteration:
            report.lines -= 1
            return
        except csv.Error as error:
            report.add_bad("not CSV", str(error))
            continue
        if len(cells) != len(header):
            report.add_bad("wrong number of cells", delimiter.join(cells))
            continue
        yield delimiter.join(cells), dict(zip((name.strip().lower() for name in header), cells))


def _plain_name(path: str) -> str:
    name = path.lower()
    for suffix in (".gz", ".bz2", ".xz", ".zst"):
        name = name.removesuffix(suffix)
    return name

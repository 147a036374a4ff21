"""Wikidata's JSON dump, an entity a line in one big array, and the answers of its API (``wbgetentities``)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from datetime import date
from typing import Any

from raylab.errors import RaylabError
from raylab.kb.lines import lines, pieces
from raylab.kb.records import BadLine, Piece, Report, check_text

WIKI = "enwiki"
"""Items without a page here are left out; the page's title is the entity's."""
LANGUAGES = ("en", "mul")
"""Labels, aliases and descriptions: English, then those that hold in every language."""

_MAPS = ("labels", "descriptions", "aliases", "claims", "sitelinks")
_MISSHAPEN = re.compile(rb'"(?:' + b"|".join(name.encode() for name in _MAPS) + rb')":\[')
_DATE = re.compile(r"(20\d\d)-?([01]\d)-?([0-3]\d)")


def dump_pieces(path: str) -> list[Piece]:
    """Cut a dump for parallel reading: plain ones by bytes, ``.bz2`` by streams; ``.gz`` cannot be cut.

    Raises:
        RaylabError: no such file.
    """
    return pieces(path)


def dump_date(paths: Iterable[str]) -> str | None:
    """Return the latest ISO date in the files' names (``wikidata-20260105-all.json.bz2``), None without one."""
    found = []
    for path in paths:
        for year, month, day in _DATE.findall(path.replace("\\", "/").rsplit("/", 1)[-1]):
            try:
                found.append(date(int(year), int(month), int(day)).isoformat())
            except ValueError:  # eight digits that are no date
                continue
    return max(found, default=None)


def read_dump(piece: Piece, report: Report) -> Iterator[dict[str, Any]]:
    """Yield `schema.ENTITY` dicts of the items with an English Wikipedia page.

    Broken lines are counted in `report.bad`. Where a map came as an empty list, an old fault of the dumps, the item is
    kept if it has a page and counted in `report.mended`, else it counts as broken. "Subclass of" pairs of all items,
    kept or not, go to `report.edges`. Without a popularity file, the number of Wikipedias with a page stands in for it.
    """
    answer = _api_answer(piece)
    if answer is not None:
        found: Iterable[tuple[object, Any]] = _answered(answer, report)
    else:
        found = _dumped(piece, report)
    for line, record in found:
        try:
            row = _item(record, report)
        except BadLine as error:
            report.add_bad(str(error), line if isinstance(line, bytes) else json.dumps(record)[:200])
            continue
        if row is not None:
            yield row


def _dumped(piece: Piece, report: Report) -> Iterator[tuple[bytes, Any]]:
    """Yield (line, parsed) of the lines that may hold an item or an edge; the others are not parsed, for speed."""
    for line in lines(piece):
        report.lines += 1
        text = line.strip().rstrip(b",")
        if text in (b"", b"[", b"]"):
            report.dropped["blank or bracket"] += 1
            continue
        whole = text.startswith(b"{") and text.endswith(b"}")
        if whole and b'"enwiki"' not in text and b'"P279"' not in text and not _MISSHAPEN.search(text):
            report.dropped["no English Wikipedia page"] += 1
            continue
        try:
            yield line, json.loads(text)
        except (ValueError, RecursionError):
            report.add_bad("not JSON", line)


def _api_answer(piece: Piece) -> dict[str, Any] | None:
    """Return the content of a file that holds an answer of the API, None for a dump."""
    if piece.end >= 0:
        return None
    head = b""
    for line in lines(piece):
        head = line.strip()
        if head:
            break
    if not head.startswith(b"{") or head.endswith(b"},"):
        return None
    try:
        whole = json.loads(b"".join(lines(piece)))
    except (ValueError, RecursionError):
        return None
    return whole if isinstance(whole, dict) and ("entities" in whole or "error" in whole) else None


def _answered(answer: dict[str, Any], report: Report) -> Iterator[tuple[None, Any]]:
    if "error" in answer:
        report.lines += 1
        report.add_bad("an error message of the API", json.dumps(answer["error"]))
    for record in answer.get("entities", {}).values():
        report.lines += 1
        yield None, record


def _item(record: Any, report: Report) -> dict[str, Any] | None:
    """Return the row of an item, None where it is left out (counted).

    Raises:
        BadLine: it is broken.
    """
    if not isinstance(record, dict):
        raise BadLine("not a JSON object")
    if "missing" in record:
        report.dropped["missing at Wikidata"] += 1
        return None
    misshapen = [name for name in _MAPS if not isinstance(record.get(name, {}), dict)]
    for name in misshapen:
        if record[name] != []:
            raise BadLine(f"{name} is not an object")
        record[name] = {}
    try:
        kept = _row(record, report)
    except (AttributeError, KeyError, TypeError) as error:
        raise BadLine("not the shape of an item") from error
    if misshapen:
        reason = f"{misshapen[0]} is a list, not an object"
        if kept is None or isinstance(kept, str):
            raise BadLine(reason)
        report.mended[reason] += 1
    if isinstance(kept, str):
        report.dropped[kept] += 1
        return None
    return kept


def _row(record: dict[str, Any], report: Report) -> dict[str, Any] | str:
    """Return the row of a sound item, or the reason why it is left out."""
    if record.get("type") != "item":
        return "no item"
    claims = record.get("claims", {})
    report.edges.extend((record["id"], parent) for parent in _targets(claims, "P279"))
    links = record.get("sitelinks", {})
    if WIKI not in links:
        return "no English Wikipedia page"
    title = check_text(links[WIKI]["title"], "title")
    names = [*_texts(record.get("labels", {})), *_texts(record.get("aliases", {}))]
    return {
        "id": check_text(record["id"], "id"),
        "title": title,
        "aliases": [name for name in dict.fromkeys(names) if name != title],
        "description": next(iter(_texts(record.get("descriptions", {}))), None),
        "summary": None,
        "types": list(_targets(claims, "P31")),
        "popularity": float(len(links)),
    }


def _texts(by_language: dict[str, Any]) -> Iterator[str]:
    """Yield the texts in our languages; Wikidata keeps one or a list a language."""
    for language in LANGUAGES:
        entry = by_language.get(language, ())
        for one in [entry] if isinstance(entry, dict) else entry:
            text = check_text(one["value"], "name")
            if text:
                yield text


def _targets(claims: dict[str, Any], claim: str) -> Iterator[str]:
    """Yield the item ids that a claim points to, deprecated statements and "unknown" left out."""
    for statement in claims.get(claim, ()):
        value = statement["mainsnak"].get("datavalue", {}).get("value")
        if statement.get("rank") != "deprecated" and isinstance(value, dict):
            yield value.get("id") or f"Q{value['numeric-id']}"


def check_date(text: str) -> str:
    """Return an ISO date as it was given.

    Raises:
        RaylabError: it is none.
    """
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError as error:
        raise RaylabError(f"the dump date {text!r} is no date: write it as 2026-01-31.") from error

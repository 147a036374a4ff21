"""Facts that come in files of their own, joined to entities by id or title: popularity, Wikipedia summaries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from raylab.errors import RaylabError
from raylab.kb.hashing import HashIndex, hash_strings
from raylab.kb.records import BadLine, Piece, Report, check_number, check_text, take
from raylab.kb.tabular import records

KEYS = ("id", "qid", "title", "page_title", "name")
VALUES = {
    "popularity": ("popularity", "pageviews", "views", "pagerank", "score"),
    "summary": ("summary", "abstract", "extract", "text"),
}
"""The names under which each fact is looked for."""

_TYPES = {"popularity": pa.float32(), "summary": pa.string()}


def read_facts(paths: Iterable[str], fact: str, folder: Path) -> list[Report]:
    """Read files of one fact into `folder`; where a key comes again, the first wins.

    Args:
        paths: JSON lines, CSV, TSV or Parquet with an id or title and the fact; a table whose first line is data, such
            as ``Q42<tab>17.3``, has the key first and the fact second.
        fact: ``popularity`` or ``summary``.
        folder: to make.

    Raises:
        RaylabError: no such file, or not one usable line in it.
    """
    folder.mkdir(parents=True)
    reports, hashes = [], []
    schema = pa.schema([pa.field(fact, _TYPES[fact])])
    with pa.ipc.new_file(folder / "values.arrow", schema) as writer:
        for path in paths:
            report = Report(path)
            for keys, values in _chunks(_pairs(path, fact, report)):
                hashes.append(hash_strings(pa.array(keys, pa.string())))
                writer.write_batch(pa.record_batch([pa.array(values, _TYPES[fact])], schema))
            if not report.rows:
                raise RaylabError(
                    f"{path} gives no {fact}: it needs one of {', '.join(KEYS)} and {', '.join(VALUES[fact])}."
                )
            reports.append(report)
    distinct, first = np.unique(np.concatenate(hashes), return_index=True)
    HashIndex.of(distinct).save(folder)
    np.save(folder / "at.npy", first)
    return reports


class Facts:
    """One fact of many entities, mapped."""

    def __init__(self, folder: Path) -> None:
        self._index = HashIndex.open(folder)
        self._at = np.load(folder / "at.npy")
        self._values = pa.ipc.open_file(pa.memory_map(str(folder / "values.arrow"))).read_all()

    def find(self, ids: pa.ChunkedArray, titles: pa.ChunkedArray) -> pa.Array:
        """Return the fact of each entity, by id, else by title; null where there is none."""
        found = self._index.find(hash_strings(ids))
        by_title = self._index.find(hash_strings(titles.fill_null("")))
        found = np.where(found < 0, by_title, found)
        known = np.flatnonzero(found >= 0)
        values = take(self._values, self._at[found[known]])[0].combine_chunks()
        back = np.full(len(found), -1)
        back[known] = np.arange(len(known))
        return values.take(pa.array(back, mask=back < 0))


def _pairs(path: str, fact: str, report: Report) -> Iterator[tuple[str, Any]]:
    for line, record in records(Piece(path), report, headless=(KEYS[0], fact)):
        try:
            pair = _pair(record, fact)
        except BadLine as error:
            report.add_bad(str(error), line)
            continue
        report.rows += 1
        yield pair


def _pair(record: dict[str, Any], fact: str) -> tuple[str, Any]:
    key = check_text(next((record[name] for name in KEYS if record.get(name)), None), "key")
    value = next((record[name] for name in VALUES[fact] if record.get(name) not in (None, "")), None)
    if key is None or value is None:
        raise BadLine(f"no key or no {fact}")
    return key.replace("_", " "), check_number(value, fact) if fact == "popularity" else check_text(value, fact)


def _chunks(pairs: Iterable[tuple[str, Any]], size: int = 50_000) -> Iterator[tuple[list[str], list[Any]]]:
    keys: list[str] = []
    values: list[Any] = []
    for key, value in pairs:
        keys.append(key)
        values.append(value)
        if len(keys) == size:
            yield keys, values
            keys, values = [], []
    if keys:
        yield keys, values

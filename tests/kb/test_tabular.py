from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from raylab.errors import RaylabError
from raylab.kb.records import Report
from raylab.kb.tabular import catalogue_pieces, read_catalogue, read_edges


def read_all(path: Path) -> tuple[list[dict], Report]:
    report = Report(str(path))
    rows = [row for piece in catalogue_pieces(str(path)) for row in read_catalogue(piece, report)]
    return rows, report


def test_usual_field_names_are_known(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    records = [
        {"qid": "Q1", "label": "One", "aliases": ["I"], "definition": "first", "p31": ["Q2"], "pagerank": 0.5},
        {"id": "x:2", "lemmas": ["two", "deuce"], "abstract": "It is two."},
        {"id": "Q3", "name": "Three", "aliases": "trio|III", "popularity": "7"},
    ]
    path.write_text("\n".join(json.dumps(record) for record in records) + "\n\n")
    rows, report = read_all(path)
    assert [row["title"] for row in rows] == ["One", "two", "Three"]
    assert rows[0]["description"] == "first"
    assert rows[0]["types"] == ["Q2"]
    assert rows[1]["summary"] == "It is two."
    assert rows[2]["aliases"] == ["trio", "III"]
    assert rows[2]["popularity"] == 7.0
    assert report.lines == 4
    assert report.dropped == {"blank line": 1}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"id": "Q1", "title": ', "not JSON"),
        (b"\xff\xfe{}", "not JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"title": "no id"}', "no id"),
        (b'{"id": 5, "title": "x"}', "id is not text"),
        (b'{"id": "Q1", "title": "\\ud800"}', "title is not valid Unicode"),
        (b'{"id": "Q1", "title": "a\\u0000b"}', "title holds NUL"),
        (b'{"id": "Q1", "title": "x", "aliases": {"a": 1}}', "aliases is not a list"),
        (b'{"id": "Q1", "title": "x", "types": [1]}', "types is not text"),
        (b'{"id": "Q1", "title": "x", "popularity": "many"}', "popularity is not a number"),
        (b'{"id": "Q1", "title": "x", "popularity": NaN}', "popularity is not a number of 0 or more"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_a_bad_line_is_counted_and_the_rest_is_read(tmp_path: Path, line: bytes, reason: str) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"id": "Q7", "title": "ok"}\n' + line + b'\n{"id": "Q8", "title": "ok"}\n'))
    rows, report = read_all(path)
    assert [row["id"] for row in rows] == ["Q7", "Q8"]
    assert report.bad == {reason: 1}
    assert report.samples[0][:2] == (2, reason)


def test_csv_with_quotes_and_bad_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(
        '\ufeffid,Title,aliases\nQ1,"Paris, Texas",a|b\nQ2\nQ3,"two\nlines",\n'.encode() + b"Q4,caf\xe9,\n,no id,\n"
    )
    rows, report = read_all(path)
    assert [(row["id"], row["title"]) for row in rows] == [("Q1", "Paris, Texas"), ("Q3", "two\nlines")]
    assert rows[0]["aliases"] == ["a", "b"]
    assert report.bad == {"wrong number of cells": 1, "title is not valid Unicode": 1, "no id": 1}


def test_csv_without_an_id_column_names_those_it_has(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("code\tname\n1\tx\n")
    with pytest.raises(RaylabError, match="no column id or qid; its columns: code, name"):
        read_all(path)


@pytest.mark.parametrize("name", ["missing.jsonl", "missing.csv", "a.xml"])
def test_what_is_no_catalogue(tmp_path: Path, name: str) -> None:
    with pytest.raises(RaylabError, match=name):
        catalogue_pieces(str(tmp_path / name))


def test_a_torn_gz_file_names_itself(tmp_path: Path) -> None:
    path = tmp_path / "torn.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"id": "Q1", "title": "x"}\n' * 9_000)[:-200])
    with pytest.raises(RaylabError, match=r"torn.jsonl.gz is damaged or cut short"):
        read_all(path)


def test_edges(tmp_path: Path) -> None:
    path = tmp_path / "edges.jsonl"
    path.write_text('{"qid": "Q1", "subclass_of": "Q2"}\n{"qid": "Q1", "subclass_of": ["Q3"]}\nbroken\n')
    assert list(read_edges(str(path))) == [("Q1", "Q2"), ("Q1", "Q3")]
    path.write_text('{"a": 1}\n')
    with pytest.raises(RaylabError, match="no pair of qid and subclass_of"):
        list(read_edges(str(path)))

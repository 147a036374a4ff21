from __future__ import annotations

import bz2
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raylab.errors import RaylabError
from raylab.kb.build import BuildConfig, build
from raylab.kb.catalog import Catalog
from raylab.kb.records import Report
from raylab.kb.run import ray_map
from raylab.kb.wikidata import check_date, dump_date, dump_pieces, read_dump


def item(number: int, title: str | None = "Title", **fields: Any) -> dict:
    claims = {
        claim: [{"rank": rank, "mainsnak": {"datavalue": {"value": value}}} for rank, value in fields.pop(claim, ())]
        for claim in ("P31", "P279")
    }
    links = {"enwiki": {"site": "enwiki", "title": title}} if title else {}
    return {"type": "item", "id": f"Q{number}", "sitelinks": links, "claims": claims} | fields


def read_text(tmp_path: Path, text: str | bytes, name: str = "dump.json") -> tuple[list[dict], Report]:
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    report = Report(str(path))
    return [row for piece in dump_pieces(str(path)) for row in read_dump(piece, report)], report


def dump_text(*lines: object) -> str:
    return "[\n" + ",\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n]\n"


def test_an_item_becomes_a_row(tmp_path: Path) -> None:
    one = item(
        42,
        "Douglas Adams",
        labels={"en": {"value": "Douglas Noel Adams"}, "fr": {"value": "Adams, Douglas"}, "mul": {"value": "D. Adams"}},
        aliases={"en": [{"value": "DNA"}, {"value": "Douglas Adams"}]},
        descriptions={"en": {"value": "English author"}},
        P31=[("normal", {"id": "Q5"}), ("deprecated", {"id": "Q6"}), ("preferred", {"numeric-id": 7})],
        P279=[("normal", {"id": "Q9"})],
    )
    rows, report = read_text(tmp_path, dump_text(one))
    assert rows == [
        {
            "id": "Q42",
            "title": "Douglas Adams",
            "aliases": ["Douglas Noel Adams", "D. Adams", "DNA"],
            "description": "English author",
            "summary": None,
            "types": ["Q5", "Q7"],
            "popularity": 1.0,
        }
    ]
    assert report.edges == [("Q42", "Q9")]


def test_lines_without_use_are_counted_by_reason(tmp_path: Path) -> None:
    class_without_page = item(3, None, P279=[("normal", {"id": "Q4"})])
    odd = [
        item(1),
        item(2, None),
        class_without_page,
        {"type": "property", "id": "P31", "enwiki": 1},
        '{"type": "item", "id": "Q5", "sitelinks": {"enwi',
        '{"type":"item","id":"Q6","labels":[],"sitelinks":{}}',
        '{"type":"item","id":"Q7","labels":[],"sitelinks":{"enwiki":{"title":"Seven"}}}',
        '{"type":"item","id":"Q8","labels":7,"sitelinks":{"enwiki":{"title":"Eight"}}}',
        '{"type":"item","id":"Q9","sitelinks":{"enwiki":{"no title":1}}}',
        '{"type":"item","id":"Q10","sitelinks":{"enwiki":{"title":"x\\ud800"}}}',
        '["enwiki"]',
    ]
    rows, report = read_text(tmp_path, dump_text(*odd))
    assert [row["id"] for row in rows] == ["Q1", "Q7"]
    assert report.edges == [("Q3", "Q4")]
    assert report.mended == {"labels is a list, not an object": 1}
    assert report.dropped == {"blank or bracket": 2, "no English Wikipedia page": 2, "no item": 1}
    assert report.bad == {
        "not JSON": 1,
        "not a JSON object": 1,
        "labels is a list, not an object": 1,
        "labels is not an object": 1,
        "not the shape of an item": 1,
        "title is not valid Unicode": 1,
    }
    assert report.samples[0][:2] == (6, "not JSON")
    assert report.lines == len(rows) + sum(report.bad.values()) + sum(report.dropped.values())


@pytest.mark.parametrize(
    ("name", "pack"), [("d.json", bytes), ("d.json.gz", gzip.compress), ("d.json.bz2", bz2.compress)]
)
def test_packed_and_plain_dumps_read_the_same(tmp_path: Path, name: str, pack: Callable[[bytes], bytes]) -> None:
    rows, _ = read_text(tmp_path, pack(dump_text(item(1), item(2)).encode()), name)
    assert [row["id"] for row in rows] == ["Q1", "Q2"]


def test_answers_of_the_api(tmp_path: Path) -> None:
    answer = {"entities": {"Q1": item(1), "Q6": {"id": "Q6", "missing": ""}}}
    rows, report = read_text(tmp_path, json.dumps(answer, indent=1))
    assert [row["id"] for row in rows] == ["Q1"]
    assert report.dropped == {"missing at Wikidata": 1}
    rows, report = read_text(tmp_path, '{"error": {"code": "no-such-entity"}}')
    assert not rows
    assert report.bad == {"an error message of the API": 1}


def test_dump_dates() -> None:
    assert dump_date(["x/wikidata-20260105-all.json.bz2", "20991399.json"]) == "2026-01-05"
    assert dump_date(["2026-02-03/latest-all.json.gz"]) is None
    with pytest.raises(RaylabError, match="'soon' is no date"):
        check_date("soon")


def test_fixtures_build_with_the_bad_lines_counted(shared_data: Path, tmp_path: Path) -> None:
    files = sorted(str(path) for path in (shared_data / "wikidata_dump_sample").iterdir())
    info = build(BuildConfig(str(tmp_path / "kb"), dump=tuple(files), workers=1))
    catalog = Catalog.open(tmp_path / "kb")
    assert sorted(catalog.ids.to_pylist()) == ["Q1", "Q1040", "Q131261", "Q42"]
    assert info.dump_date == "2015-08-15"
    by_name = {Path(source["path"]).name: source for source in info.sources}
    bugs = by_name["mock-dump-with-bugs.json"]
    assert bugs["bad"] == {"labels is a list, not an object": 1, "claims is a list, not an object": 1}
    assert [number for number, _, _ in bugs["samples"]] == [3, 19]
    assert sum(sum(source["bad"].values()) for source in info.sources) == 3


def test_a_dump_without_a_usable_item_makes_an_empty_knowledge_base(tmp_path: Path) -> None:
    (tmp_path / "d.json").write_text(dump_text(item(1, None), "broken"))
    info = build(BuildConfig(str(tmp_path / "kb"), dump=(str(tmp_path / "d.json"),), workers=1))
    catalog = Catalog.open(tmp_path / "kb")
    assert info.entities == len(catalog) == 0
    assert catalog.rows(["Q1"]).tolist() == [-1]
    assert catalog.aliases.lookup(["Title"]).tolist() == [-1]
    assert catalog.context is None


def test_ray_gives_results_in_the_tasks_order(ray_cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those of tasks that are begun when others have ended."""
    monkeypatch.setattr("raylab.kb.run.AHEAD", 2)
    assert list(ray_map(lambda number: -number, range(6))) == [0, -1, -2, -3, -4, -5]


def test_ray_reads_the_pieces_and_builds_the_same(ray_cluster: None, tmp_path: Path) -> None:
    files = []
    for part in range(3):
        path = tmp_path / f"part-{part}.json"
        path.write_text(dump_text(*(item(part * 100 + n, f"Name {n}") for n in range(50)), "broken"))
        files.append(str(path))
    config = [BuildConfig(str(tmp_path / out), dump=tuple(files), workers=1, context=False) for out in ("a", "b")]
    with_ray, without = build(config[0], ray_map), build(config[1])
    assert with_ray == without
    assert with_ray.entities == 150
    (tmp_path / "torn.json.gz").write_bytes(gzip.compress(b"x\n" * 50_000)[:-20])
    with pytest.raises(RaylabError, match=r"torn.json.gz is damaged"):
        build(BuildConfig(str(tmp_path / "c"), dump=(str(tmp_path / "torn.json.gz"),)), ray_map)

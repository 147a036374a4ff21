from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from kb.small_catalogue import ROWS, write_rows

from raylab.errors import RaylabError
from raylab.kb.aliases import ALIAS, PARTIAL, TITLE
from raylab.kb.build import BuildConfig, build
from raylab.kb.catalog import Catalog
from raylab.kb.is_a import ClassGraph, pair_table
from raylab.kb.owners import prior_weights


def make(tmp_path: Path, *rows: list[dict], **settings: Any) -> Catalog:
    files = [write_rows(tmp_path / f"rows-{number}.jsonl", some) for number, some in enumerate(rows)]
    build(BuildConfig(str(tmp_path / "kb"), tuple(files), **{"context": False, "workers": 1} | settings))
    return Catalog.open(tmp_path / "kb")


def owners(catalog: Catalog, surface: str) -> dict[str, float]:
    (alias,) = catalog.aliases.lookup([surface])
    if alias < 0:
        return {}
    found = catalog.aliases.candidates(np.array([alias]))
    return dict(zip(catalog.take(found.entity_rows)["id"].to_pylist(), found.priors.tolist()))


def test_sources_are_merged_by_id(tmp_path: Path) -> None:
    catalog = make(
        tmp_path,
        [
            {"id": "Q1", "title": "One", "aliases": ["a"], "types": ["T1"], "popularity": 1},
            {"id": "Q2", "title": "Two"},
        ],
        [{"id": "Q1", "title": "Uno", "aliases": ["b", "a"], "description": "first", "types": ["T2", "T1"]}],
        [{"id": "Q1", "description": "second", "popularity": 3}, {"id": "Q3", "description": "nameless"}],
    )
    (row,) = catalog.entities.take(pa.array(catalog.rows(["Q1"]))).to_pylist()
    assert row["title"] == "One"
    assert row["aliases"] == ["Uno", "a", "b"]
    assert row["description"] == "first"
    assert row["types"] == ["T1", "T2"]
    assert row["popularity"] == 3
    assert len(catalog) == 2
    assert catalog.info.dropped == {"no title": 1}
    assert catalog.popularity[catalog.rows(["Q2"])[0]] == 0


def test_result_depends_on_neither_processes_nor_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import raylab.kb.build as module
    from raylab.kb import lines, records

    rows: list[dict] = [
        {"id": f"Q{n}", "title": f"Name {n % 700}", "aliases": [f"N{n}"], "popularity": n} for n in range(2_000)
    ]
    one = make(tmp_path, rows)
    (tmp_path / "again").mkdir()
    monkeypatch.setattr(lines.pieces, "__defaults__", (5_000,))
    monkeypatch.setattr(records.tables, "__defaults__", (11,))
    monkeypatch.setattr(module, "SPILL_TABLES", 2)
    monkeypatch.setattr(module, "_partitions", lambda inputs: 7)
    other = make(tmp_path / "again", rows)
    assert other.info.fingerprint == one.info.fingerprint
    assert other.entities.equals(one.entities)
    for name in ("indptr", "entities", "priors", "kinds", "gaps", "forms"):
        assert (getattr(other.aliases, name) == getattr(one.aliases, name)).all()
    (tmp_path / "changed").mkdir()
    assert make(tmp_path / "changed", rows[:-1]).info.fingerprint != one.info.fingerprint


def test_two_processes_build_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import raylab.kb.build as module

    one = make(tmp_path, ROWS, context=True)
    (tmp_path / "again").mkdir()
    monkeypatch.setattr(module, "SMALL_BYTES", 0)
    other = make(tmp_path / "again", ROWS, context=True, workers=2)
    assert other.info.fingerprint == one.info.fingerprint
    assert one.context is not None
    assert other.context is not None
    assert (other.context.entities == one.context.entities).all()


def test_types_are_closed_over_their_ancestors(tmp_path: Path) -> None:
    edges = tmp_path / "edges.jsonl"
    pairs = [("city", "place"), ("place", "thing"), ("thing", "place"), ("town", "place")]
    edges.write_text("".join(json.dumps({"qid": a, "subclass_of": b}) + "\n" for a, b in pairs))
    rows: list[dict] = [{"id": "Q1", "title": "x", "types": ["city", "town"]}, {"id": "Q2", "title": "y"}]
    catalog = make(tmp_path, rows, type_edges=(str(edges),))
    assert catalog.types.take(pa.array(catalog.rows(["Q1"])))[0].as_py() == ["city", "town", "place", "thing"]
    assert catalog.types.take(pa.array(catalog.rows(["Q2"])))[0].as_py() == []


def test_a_circle_of_types_ends() -> None:
    pairs = pair_table([("a", "b"), ("b", "c"), ("b", "a"), ("c", "a")])
    assert ClassGraph(pairs).closure(["a", "x"]) == {"a": ("b", "c")}
    assert ClassGraph(pair_table([])).closure(["a"]) == {}


def test_edges_that_entities_reach_are_kept(tmp_path: Path) -> None:
    pairs = [("town", "place"), ("place", "thing"), ("place", "place"), ("lake", "water"), ("Q2", "thing"), ("Q9", "x")]
    rows: list[dict] = [{"id": "Q1", "title": "x", "types": ["town"]}, {"id": "Q2", "title": "y"}]
    rows += [{"id": "Q3", "types": ["lake"]}]  # no title: not kept, nor what only it reaches
    found = []
    for name, some in (("one", pairs), ("other", [*pairs[::-1], pairs[0]])):
        (tmp_path / name).mkdir()
        edges = tmp_path / name / "edges.csv"
        edges.write_text("qid,subclass_of\n" + "".join(f"{a},{b}\n" for a, b in some))
        found.append(make(tmp_path / name, rows, type_edges=(str(edges),)))
    kept = [("Q2", "thing"), ("place", "thing"), ("town", "place")]
    assert [tuple(row.values()) for row in found[0].edges.to_pylist()] == kept
    assert found[0].info.edges == 3
    assert found[0].info.files["edges.arrow"] > 0
    assert found[0].info.edges_fingerprint == found[1].info.edges_fingerprint != ""


def test_edges_decide_no_label(tmp_path: Path) -> None:
    plain = make(tmp_path, ROWS)
    (tmp_path / "edges.csv").write_text("qid,subclass_of\nQ1,city\n")
    (tmp_path / "again").mkdir()
    again = make(tmp_path / "again", ROWS, type_edges=(str(tmp_path / "edges.csv"),))
    assert again.info.edges == 1
    assert again.info.fingerprint == plain.info.fingerprint  # label stores of the old one open with the new one
    assert plain.info.edges == 0
    assert not (plain.path / "edges.arrow").exists()


def test_edges_of_a_dump_are_kept(tmp_path: Path) -> None:
    claim = {"mainsnak": {"datavalue": {"value": {"id": "Q9"}}}}
    page = {"sitelinks": {"enwiki": {"title": "Dog"}}}
    items = [{"id": "Q1", "claims": {"P279": [claim]}} | page, {"id": "Q8", "claims": {"P279": [claim]}}]
    lines = ",\n".join(json.dumps({"type": "item", "labels": {}} | one) for one in items)
    (tmp_path / "dump.json").write_text(f"[\n{lines}\n]\n")
    build(BuildConfig(str(tmp_path / "kb"), dump=(str(tmp_path / "dump.json"),), context=False, workers=1))
    assert Catalog.open(tmp_path / "kb").edges.to_pylist() == [{"below": "Q1", "above": "Q9"}]


def test_pages_of_no_entity_are_dropped(tmp_path: Path) -> None:
    catalog = make(
        tmp_path, [{"id": "Q1", "title": "Mercury", "types": ["Q4167410"]}, {"id": "Q2", "title": "Mercury"}]
    )
    assert catalog.ids.to_pylist() == ["Q2"]
    assert catalog.info.dropped == {"unwanted type": 1}


@pytest.mark.parametrize(
    ("title", "surname"),
    [
        ("Phil Simmons", "Simmons"),
        ("Phil Simmons (cricketer)", "Simmons"),
        ("Martin Luther King, Jr.", "King"),
        ("Sammy Davis Jr.", "Davis"),
        ("Ludwig van Beethoven", "van Beethoven"),
        ("John Paul II", "Paul"),
    ],
)
def test_a_person_is_known_by_the_surname(tmp_path: Path, title: str, surname: str) -> None:
    catalog = make(tmp_path, [{"id": "Q1", "title": title, "types": ["Q5"]}, {"id": "Q2", "title": f"{title} House"}])
    assert list(owners(catalog, surname)) == ["Q1"]
    assert catalog.aliases.candidates(catalog.aliases.lookup([surname])).is_partial.tolist() == [True]


def test_only_persons_have_surnames(tmp_path: Path) -> None:
    catalog = make(tmp_path, [{"id": "Q1", "title": "Madonna", "types": ["Q5"]}, {"id": "Q2", "title": "White House"}])
    assert owners(catalog, "House") == {}


def test_priors_weigh_popularity_and_ownership(tmp_path: Path) -> None:
    rows: list[dict] = [
        {"id": "Q1", "title": "Jordan", "popularity": 100},
        {"id": "Q2", "title": "Michael Jordan", "types": ["Q5"], "popularity": 100},
        {"id": "Q3", "title": "Hashemite Kingdom", "aliases": ["Jordan", "jordan"], "popularity": 100},
        {"id": "Q4", "title": "Jordan (footballer)"},
    ]
    priors = owners(make(tmp_path, rows), "Jordan")
    assert list(priors) == ["Q1", "Q3", "Q4", "Q2"] or priors["Q1"] > priors["Q3"] > priors["Q2"]
    assert sum(priors.values()) == pytest.approx(1)
    assert min(priors.values()) > 0


def test_without_popularity_the_kind_decides() -> None:
    weights = prior_weights(np.zeros(3, np.float32), np.array([TITLE, ALIAS, PARTIAL]))
    assert weights[0] > weights[1] > weights[2] > 0


def test_crowded_names_keep_their_likeliest_owners(tmp_path: Path) -> None:
    rows: list[dict] = [{"id": f"Q{n}", "title": "Smith", "popularity": n} for n in range(1, 11)]
    catalog = make(tmp_path, rows, max_owners=3)
    assert list(owners(catalog, "Smith")) == ["Q10", "Q9", "Q8"]
    assert catalog.info.dropped == {"owner beyond max_owners": 7}


def test_popularity_and_summaries_join_by_id_and_title(tmp_path: Path) -> None:
    views = tmp_path / "views.tsv"
    views.write_text("title\tviews\nNew_York_City\t12\nNowhere\t9\nParis\tmany\n")
    ranks = tmp_path / "ranks.tsv"
    ranks.write_text("Q3\t5.5\nQ99\t99\n")
    summaries = tmp_path / "summaries.parquet"
    pq.write_table(pa.table({"title": ["Paris", "Reading"], "summary": ["A city.", None]}), summaries)
    catalog = make(tmp_path, ROWS, popularity=(str(views), str(ranks)), summaries=(str(summaries),))
    at = catalog.rows(["Q13", "Q3", "Q1"])
    assert catalog.popularity[at].tolist() == [12, 5.5, 0]
    assert catalog.summaries.take(pa.array(at)).to_pylist() == [None, None, "A city."]
    assert {Path(s["path"]).name: s["bad"] for s in catalog.info.sources}["views.tsv"] == {
        "popularity is not a number": 1
    }


def test_facts_of_no_use_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "views.csv").write_text("page,count,day\nParis,3,1\n")
    with pytest.raises(RaylabError, match=r"views.csv"):
        make(tmp_path, ROWS, popularity=(str(tmp_path / "views.csv"),))


def test_all_bad_is_an_error_with_the_reasons(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("a\nb\n")
    with pytest.raises(RaylabError, match=r"not one sound line.*2 x not JSON"):
        build(BuildConfig(str(tmp_path / "kb"), (str(tmp_path / "rows.jsonl"),)))
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_nothing_to_build_from(tmp_path: Path) -> None:
    with pytest.raises(RaylabError, match="nothing to build from"):
        build(BuildConfig(str(tmp_path / "kb")))


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "kb").mkdir()
    (tmp_path / "kb" / "thesis.txt").write_text("mine")
    with pytest.raises(RaylabError, match="is no knowledge base"):
        make(tmp_path, ROWS)
    assert (tmp_path / "kb" / "thesis.txt").read_text() == "mine"


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", ROWS)
    with pytest.raises(RaylabError, match=r"kb cannot be written .* name another folder"):
        build(BuildConfig(str(tmp_path / "rows.jsonl" / "kb"), (rows,)))


def test_a_full_disk_is_one_message_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import raylab.kb.write as module

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.np, "save", full)
    with pytest.raises(RaylabError, match="No space left on device"):
        make(tmp_path, ROWS)
    assert [path.name for path in tmp_path.iterdir()] == ["rows-0.jsonl"]


def test_a_build_replaces_the_old_one_only_when_it_is_complete(tmp_path: Path) -> None:
    old = make(tmp_path, ROWS).info
    (tmp_path / "bad.jsonl").write_text("x\n")
    with pytest.raises(RaylabError):
        build(BuildConfig(str(tmp_path / "kb"), (str(tmp_path / "bad.jsonl"),)))
    assert Catalog.open(tmp_path / "kb").info == old
    assert make(tmp_path, ROWS[:3]).info.entities == 3
    assert not [path for path in tmp_path.iterdir() if "building" in path.name]


def test_the_mini_world_is_a_catalogue(tmp_path: Path) -> None:
    build(BuildConfig(str(tmp_path / "kb"), ("miniworld://",), workers=1))
    catalog = Catalog.open(tmp_path / "kb")
    assert len(catalog) > 120
    assert catalog.context is not None
    assert len(catalog.context.entities) == len(catalog)


def test_the_real_catalogues_build_together(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "wikidata_catalog"
    files = sorted(str(path) for path in folder.glob("*.jsonl*") if "p279" not in path.name)
    edges = (str(folder / "kgtk_p279.jsonl.gz"),)
    info = build(BuildConfig(str(tmp_path / "kb"), tuple(files), type_edges=edges, context=False))
    assert info.entities + info.dropped["unwanted type"] == 102_804
    assert not any(source["bad"] for source in info.sources)
    catalog = Catalog.open(tmp_path / "kb")
    assert next(iter(owners(catalog, "barack obama"))) == "Q76"
    (types,) = catalog.types.take(pa.array(catalog.rows(["Q76"]))).to_pylist()
    assert types[0] == "Q5"
    assert len(types) > 5


def test_other_rules_for_the_index_make_another_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import raylab.kb.owners as module

    one = make(tmp_path, ROWS)
    rule = module.prior_weights
    monkeypatch.setattr(module, "prior_weights", lambda *args, **kwargs: rule(*args, **kwargs) ** 2)
    (tmp_path / "again").mkdir()
    assert make(tmp_path / "again", ROWS).info.fingerprint != one.info.fingerprint

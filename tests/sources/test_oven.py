"""OVEN's files as pairs: which questions are read, where their pictures are, what is wrong with a line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sources.oven_folder import write_oven
from sources.source_files import jpeg, write_jsonl

from raylab.errors import RaylabError
from raylab.schema import Reason
from raylab.sources import SourceConfig, open_source
from raylab.sources.images import open_image
from raylab.storage import is_one_hosts


def rows_of(uri: str) -> list[dict]:
    source = open_source(SourceConfig(uri))
    return [row for shard in source.shards() for table in source.read(shard) for row in table.to_pylist()]


def lines_of(folder: Path, *splits: str) -> list[dict]:
    texts = ((folder / f"oven_{split}.jsonl").read_text() for split in splits)
    return [json.loads(line) for text in texts for line in text.splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("oven")
    write_oven(folder, rows=40)
    return folder


def test_questions_and_answers_of_the_training_files_alone(folder):
    rows, lines = rows_of(f"oven://{folder}"), lines_of(folder, "entity_train", "query_train")
    assert [(row["key"], row["caption"], row["truth"]) for row in rows] == [
        (line["data_id"], line["question"], [line["entity_id"]]) for line in lines
    ]
    assert {row["shard"] for row in rows} == {"oven_entity_train.jsonl", "oven_query_train.jsonl"}
    assert not any(row["reject_reason"] for row in rows)
    assert all(Path(row["image"]["uri"]).is_file() for row in rows)


def test_other_splits_where_they_are_asked_for(folder):
    rows, lines = rows_of(f"oven://{folder}?splits=query_val"), lines_of(folder, "query_val")
    assert [row["key"] for row in rows] == [line["data_id"] for line in lines]


def test_pictures_without_a_table_and_elsewhere(folder, tmp_path):
    apart, pictures = tmp_path / "questions", tmp_path / "pictures"
    apart.mkdir()
    write_oven(apart, rows=12, table=False, images=pictures)
    uri = f"oven://{apart}?images={pictures}"
    rows = rows_of(uri)
    assert rows and not any(row["reject_reason"] for row in rows)
    found = open_source(SourceConfig(uri)).image_bytes([row["image"] for row in rows])
    assert all(open_image(data, SourceConfig().limits, 16).size for data in found)


def test_broken_lines_cost_themselves(tmp_path):
    write_oven(tmp_path, rows=20)
    lines = lines_of(tmp_path, "entity_train")[:6]
    lines[0]["image_id"] = "miniworld_5_999999999"
    lines[1]["image_id"] = "../../etc/passwd"
    lines[2]["data_split"] = "entity_val_seen"
    lines[3]["question"] = " "
    lines[4]["data_id"] = lines[5]["data_id"]
    (tmp_path / "oven_entity_train.jsonl").write_text("\n".join([*map(json.dumps, lines), "{broken"]))
    rows = rows_of(f"oven://{tmp_path}?splits=entity_train")
    assert [row["reject_reason"] for row in rows] == [
        Reason.MISSING_IMAGE, Reason.MISSING_IMAGE, Reason.BAD_ROW, Reason.EMPTY_CAPTION, None, Reason.DUPLICATE_KEY,
        Reason.BAD_ROW,
    ]  # fmt: skip
    assert "entity_val_seen" in rows[2]["reject_detail"]


def test_a_file_of_ones_own_whose_lines_name_their_pictures(tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg(1))
    line = {"data_id": "1", "file": "a.jpg", "question": "What is this?", "entity_id": "Q1", "entity_text": "x"}
    write_jsonl(tmp_path / "own.jsonl", [line, line | {"data_id": "2", "file": "../b.jpg"}, {"question": "And this?"}])
    (tmp_path / "ovenid2impath.csv").write_text("")
    first, outside, bare = rows_of(f"oven://{tmp_path}/own.jsonl")
    assert first["image"] == {"uri": str(tmp_path / "a.jpg"), "offset": 0, "size": -1}
    assert [outside["reject_reason"], bare["reject_reason"]] == [Reason.MISSING_IMAGE, Reason.MISSING_IMAGE]
    assert (first["truth"], bare["truth"]) == (["Q1"], None)


def test_the_mini_worlds_training_questions():
    rows = rows_of("oven://miniworld://?rows=600&seed=3")
    assert {row["shard"].split("-")[0] for row in rows} == {"entity_train", "query_train"}
    assert {row["key"].split("_")[2] for row in rows} == {"train"}
    assert len({row["key"] for row in rows}) == len(rows) > 300
    held_out = rows_of("oven://miniworld://?rows=600&seed=3&splits=entity_val,query_val")
    assert held_out and not {row["image"]["offset"] for row in rows} & {row["image"]["offset"] for row in held_out}


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("oven://data/oven", "'data/oven' is no whole path"),
        ("oven:///data?split=entity_train", "Did you mean 'splits'"),
        ("oven:///data?splits=entity_trian", "Did you mean 'entity_train'"),
        ("oven:///data?splits=human,human", "a split is named twice"),
        ("oven:///data?images=/a&images=/b", "'images' is given twice"),
        ("oven://miniworld://?rows=3&images=/a", "'images' is no option"),
        ("oven://miniworld://?rows=none", "rows='none' must be a whole number"),
        ("oven:///nowhere/at/all", "oven_entity_train.jsonl: no such file"),
    ],
)
def test_mistakes_are_named(uri, said):
    with pytest.raises(RaylabError, match=said):
        rows_of(uri)


def test_no_pictures_at_all(folder, tmp_path):
    with pytest.raises(RaylabError, match="oven_images: no such file"):
        rows_of(f"oven://{folder}?images={tmp_path}")


def test_a_path_behind_the_scheme_is_one_hosts():
    assert is_one_hosts("oven:///data/oven")
    assert not is_one_hosts("oven://s3://bucket/oven")
    assert not is_one_hosts("oven://miniworld://?rows=10")


def test_the_real_examples(shared_data):
    rows = rows_of(f"oven://{shared_data}/oven_mini_12/metadata.jsonl")
    assert len(rows) == 12
    assert not any(row["reject_reason"] for row in rows)
    assert all(row["truth"][0].startswith("Q") for row in rows)

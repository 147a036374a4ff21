"""What a run finds in a label store, and what it says where there is nothing to be found."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from train.runs import prepared, small
from train.training_store import Store, make_store

from raylab.errors import RaylabError
from raylab.kb.build import BuildConfig, build
from raylab.storage import Folder
from raylab.tasks.classes import Classes
from raylab.train.examples import check_mix, parts_of
from raylab.train.plan import check


def test_labelled_rows_and_all_rows(store: Store, tmp_path: Path) -> None:
    labelled = prepared(small("mofi_miniworld", store, tmp_path / "a")).examples
    everything = prepared(small("clip_miniworld", store, tmp_path / "b")).examples
    assert len(labelled["parts"]) == 3
    assert labelled["left_out"] == 0
    held = sum(part["rows"] for part in everything["held"])
    assert everything["left_out"] == 3  # empty captions
    assert everything["rows"] + held + everything["left_out"] == 96


def test_classes_are_numbered_by_their_rows_in_the_knowledge_base(store: Store, tmp_path: Path) -> None:
    run = prepared(small("mofi_miniworld", store, tmp_path))
    table = Folder(str(tmp_path)).read_parquet("classes.parquet")
    numbers = Classes(str(tmp_path), store.kb).numbers(table["entity_id"].combine_chunks())
    assert numbers.tolist() == list(range(run.examples["classes"]))
    assert table["rows"].to_pylist() == [n for n in table["rows"].to_pylist() if n > 0]
    assert Classes(str(tmp_path), store.kb).numbers(table["entity_id"].combine_chunks()[:0]).tolist() == []


def test_an_entity_that_is_not_in_the_knowledge_base(store: Store, tmp_path: Path) -> None:
    lines = tmp_path / "few.jsonl"
    lines.write_text(json.dumps({"id": "Q1", "title": "universe"}) + "\n")
    build(BuildConfig(catalogues=(str(lines),), out=str(tmp_path / "kb")))
    other = Store(store.labels, str(tmp_path / "kb"), store.source)
    with pytest.raises(RaylabError, match=r"entities of the labels are not in the knowledge base .*, such as"):
        prepared(small("mofi_miniworld", other, tmp_path / "out"))


def test_no_label_store(store: Store, tmp_path: Path) -> None:
    with pytest.raises(RaylabError, match="holds no label store"):
        prepared(small("mofi_miniworld", Store(str(tmp_path), store.kb, store.source), tmp_path / "out"))


def test_a_label_store_that_is_not_finished(tmp_path: Path) -> None:
    store = make_store(tmp_path, rows=12, parts=1)
    Path(store.labels, "MANIFEST.json").unlink()
    with pytest.raises(RaylabError, match="is not finished"):
        prepared(small("mofi_miniworld", store, tmp_path / "out"))


def test_another_schema_version(tmp_path: Path) -> None:
    store = make_store(tmp_path, rows=12, parts=1)
    part = Path(store.labels, "labels", "00000.parquet")
    rows = pq.read_table(part)
    pq.write_table(rows.replace_schema_metadata({b"raylab_schema_version": b"1"}), part)
    with pytest.raises(RaylabError, match=r"labels/00000.parquet has schema version 1"):
        prepared(small("mofi_miniworld", store, tmp_path / "out"))
    shutil.rmtree(store.labels)


def mixed(store: Store, out: Path, *mix: str) -> dict:
    config = small("git_oven_miniworld", store, out)
    return prepared(replace(config, data=replace(config.data, mix=mix))).examples


def test_a_files_rows_are_counted_by_group(store: Store, tmp_path: Path) -> None:
    examples, alike = mixed(store, tmp_path / "a", "*entity_*", "*query_*"), mixed(store, tmp_path / "b")
    assert sorted({(part.name, part.group) for part in parts_of(examples)}) == [
        (f"labels/{file:05d}.parquet", group) for file in range(3) for group in range(2)
    ]
    assert examples["rows"] == alike["rows"]
    check_mix(examples, ("*entity_*", "*query_*"), 16)


def test_a_group_that_has_too_few_rows(store: Store, tmp_path: Path) -> None:
    mix = ("*entity_*", "*query_*", "*human*")
    with pytest.raises(RaylabError, match=r"0 rows of use come from shards that fit '\*human\*'"):
        check_mix(mixed(store, tmp_path, *mix), mix, 3)


def test_a_shard_of_no_group(store: Store, tmp_path: Path) -> None:
    with pytest.raises(RaylabError, match=r"shard 'query_train' fit none of --data.mix \*entity_\*"):
        mixed(store, tmp_path, "*entity_*")


def test_a_batch_that_cannot_be_halved(store: Store, tmp_path: Path) -> None:
    with pytest.raises(RaylabError, match=r"--batch 15 cannot be shared by 1 workers in 2 equal parts"):
        check(small("git_oven_miniworld", store, tmp_path, batch=15))

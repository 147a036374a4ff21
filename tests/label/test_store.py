from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raylab.errors import RaylabError
from raylab.label import store
from raylab.label.store import LabelStore, OpenSegments, commit_segment, number, write_pieces
from raylab.schema import LABEL, REJECT, Reason, reject, row_id, set_column, widen
from raylab.storage import Folder

STEPS = ["link", "select"]


def chunk(first: int, n: int, labelled: bool = True) -> pa.Table:
    keys = [str(i) for i in range(first, first + n)]
    batch = widen(
        pa.table(
            {
                "row_id": [row_id("s", key) for key in keys],
                "shard": ["s"] * n,
                "key": keys,
                "entity_id": [f"e{int(key) % 3}" for key in keys],
                "entity_name": [f"E{int(key) % 3}" for key in keys],
            }
        )
    )
    batch = set_column(batch, "seconds_link", pa.array(np.full(n, 0.5, np.float32)))
    return batch if labelled else reject(batch, "select", [Reason.LOW_SCORE] * n)


@pytest.fixture
def folder(tmp_path):
    return Folder(str(tmp_path / "run"))


def written(folder: Folder, batches: list[pa.Table]) -> list[dict]:
    return [piece for batch in batches for piece in write_pieces(folder, batch).to_pylist()]


def test_a_segment_is_complete_when_all_its_rows_came_in_any_order(folder):
    parts = [number(chunk(0, 4), 7, 0, None), number(chunk(4, 4), 7, 4, None), number(chunk(8, 2), 7, 8, 10)]
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        open_segments = OpenSegments()
        pieces = written(folder, [parts[i] for i in order])
        answers = [open_segments.add(piece) for piece in pieces]
        assert answers[:2] == [None, None]
        assert sorted(answers[2] or []) == sorted(piece["piece"] for piece in pieces)
        assert open_segments.incomplete() == []


def test_rows_of_two_segments_in_one_batch_become_two_pieces(folder):
    both = pa.concat_tables([number(chunk(0, 3), 0, 0, 3), number(chunk(3, 2), 1, 0, 2)])
    assert [(p["_segment"], p["rows"], p["_segment_rows"]) for p in written(folder, [both])] == [(0, 3, 3), (1, 2, 2)]


def test_a_commit_has_the_rows_in_input_order_and_closed_counts(folder):
    batches = [number(chunk(0, 5), 2, 0, None), number(chunk(5, 5, labelled=False), 2, 5, 10)]
    random.Random(1).shuffle(batches)
    pieces = [piece["piece"] for piece in written(folder, batches)]
    commit = commit_segment(folder, 2, pieces, STEPS)
    labels, rejects = folder.read_parquet(commit["labels"]), folder.read_parquet(commit["rejects"])
    assert commit["labels"] == "labels/00002.parquet"
    assert labels["key"].to_pylist() == ["0", "1", "2", "3", "4"]
    assert rejects["key"].to_pylist() == ["5", "6", "7", "8", "9"]
    for table, schema in ((labels, LABEL), (rejects, REJECT)):
        assert table.schema.equals(schema)
        assert table.schema.metadata == schema.metadata
    assert folder.names("pieces") == []
    counts = commit["counts"]
    assert (counts["rows"], counts["labelled"]) == (10, 5)
    assert counts["steps"]["link"] == {
        "rows_in": 10,
        "rejected": {},
        "failed": 0,
        "worker_seconds": 5.0,
        "cpu_seconds": 0.0,
    }
    assert counts["steps"]["select"]["rejected"] == {"low_score": 5}


def test_a_row_that_came_twice_or_never_is_not_committed(folder):
    part = number(chunk(0, 4), 0, 0, 4)
    pieces = [piece["piece"] for piece in written(folder, [part, part.slice(1, 1)])]
    with pytest.raises(RaylabError, match="does not hold each row once"):
        commit_segment(folder, 0, pieces, STEPS)
    assert folder.names("segments") == []


def test_the_same_line_resumes_and_another_is_refused_with_what_differs(folder):
    identity = {"config": {"select": {"min_score": 0.3}}, "input": {"shards": 2}, "kb": "f00"}
    assert store.begin(folder, identity) == set()
    commit_segment(folder, 1, [p["piece"] for p in written(folder, [number(chunk(0, 2), 1, 0, 2)])], STEPS)
    folder.write_bytes("pieces/orphan.parquet", b"half a file")
    assert store.begin(folder, identity) == {1}
    assert not folder.exists("pieces/orphan.parquet")
    changed = identity | {"config": {"select": {"min_score": 0.4}}, "kb": "ba5"}
    with pytest.raises(RaylabError, match=r"config.select.min_score: 0.3 -> 0.4\n  kb: 'f00' -> 'ba5'"):
        store.begin(folder, changed)


def test_a_folder_of_something_else_is_not_touched(folder):
    folder.write_bytes("labels/mine.parquet", b"x")
    with pytest.raises(RaylabError, match=r"no run\.json"):
        store.begin(folder, {})


def test_rare_entities_move_to_the_rejects_and_nothing_is_lost(folder):
    pieces = [p["piece"] for p in written(folder, [number(chunk(0, 10), 0, 0, 10)])]
    commit = commit_segment(folder, 0, pieces, STEPS)
    counts = store.count_entities(folder, [commit["labels"]])
    assert counts.to_pydict() == {
        "entity_id": ["e0", "e1", "e2"],
        "entity_name": ["E0", "E1", "E2"],
        "images": [4, 3, 3],
    }
    cut = store.cut_rare(folder, commit, pa.array(["e1", "e2"]), 4)
    assert cut["cut"] == 6
    manifest = {"labels": [cut["labels"]], "rejects": [cut["rejects"]]}
    folder.write_json("MANIFEST.json", manifest)
    store.tidy(folder, manifest)
    opened = LabelStore(folder.uri)
    kept, moved = opened.labels().to_table(), opened.rejects().to_table()
    assert kept["key"].to_pylist() == ["0", "3", "6", "9"]
    assert set(moved["reject_reason"].to_pylist()) == {"rare_entity"}
    assert sorted(kept["row_id"].to_pylist() + moved["row_id"].to_pylist()) == sorted(
        row_id("s", str(i)) for i in range(10)
    )
    assert folder.names("labels") == [cut["labels"]]
    with_cut = store.add_rare(commit["counts"], 6)
    assert with_cut["labelled"] == 4
    assert with_cut["steps"]["count"]["rejected"] == {"rare_entity": 6}


def test_counts_add_up():
    one = store.count(chunk(0, 4), STEPS)
    two = store.count(chunk(0, 3, labelled=False), STEPS)
    total = store.add_counts([one, two])
    assert (total["rows"], total["labelled"]) == (7, 4)
    assert total["steps"]["select"] == {
        "rows_in": 7,
        "rejected": {"low_score": 3},
        "failed": 0,
        "worker_seconds": 0.0,
        "cpu_seconds": 0.0,
    }


def test_a_store_that_is_not_finished_or_of_another_version_is_refused(folder):
    with pytest.raises(RaylabError, match="not a label store"):
        LabelStore(folder.uri)
    store.begin(folder, {})
    with pytest.raises(RaylabError, match="not finished"):
        LabelStore(folder.uri)
    table = LABEL.empty_table().replace_schema_metadata({"raylab_schema_version": "0"})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    folder.write_bytes("labels/00000.parquet", sink.getvalue().to_pybytes())
    folder.write_json("MANIFEST.json", {"labels": ["labels/00000.parquet"], "rejects": []})
    with pytest.raises(RaylabError, match=r"labels/00000.parquet has schema version 0"):
        LabelStore(folder.uri).labels()

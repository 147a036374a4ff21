"""Which rows of a label store are annotated, and that none is lost."""

from __future__ import annotations

import pyarrow as pa
import pytest

from raylab.annotate.candidates import GROUPED, Taken, last_row_id
from raylab.label.store import LabelStore, commit_rows
from raylab.schema import FLOW, REJECT, Reason, reject
from raylab.storage import Folder


def flow(*ids: str, entity: str | None = "Q1") -> pa.Table:
    rows = [{"row_id": one, "shard": "s", "key": one, "entity_id": entity, "entity_name": entity} for one in ids]
    return pa.Table.from_pylist(rows, FLOW)


def rejected(reason: Reason, *ids: str, entity: str | None = "Q1") -> pa.Table:
    rows = flow(*ids, entity=entity)
    return reject(rows, "select", [reason] * len(ids))


@pytest.fixture
def found(tmp_path) -> LabelStore:
    folder = Folder(str(tmp_path))
    rows = pa.concat_tables(
        [
            flow("a", "f"),
            rejected(Reason.LOW_SCORE, "b", "g"),
            rejected(Reason.IMAGE_CORRUPT, "c"),
            rejected(Reason.LOW_SCORE, "d", entity=None),
        ]
    )
    commit = commit_rows(folder, 0, rows, ["select"])
    folder.write_json("MANIFEST.json", {"labels": [commit["labels"]], "rejects": [commit["rejects"]]})
    return LabelStore(str(tmp_path))


def ids(table: pa.Table) -> list[str]:
    return table["row_id"].to_pylist()


def test_labels_and_rescued_rows_are_taken_and_the_rest_stays_rejected(found):
    taken = Taken(("low_score",), None)
    labels = found.labels().to_table()
    rejects = found.rejects().to_table()
    assert ids(taken.labels(labels)) == ["a", "f"]
    assert ids(taken.rescued(rejects)) == ["b", "g"]
    assert ids(taken.left(rejects)) == ["c", "d"]
    assert taken.rescued(rejects).schema.equals(GROUPED)
    assert taken.rescued(rejects)["rescued"].to_pylist() == [True, True]
    assert taken.rescued(rejects)["reject_reason"].null_count == 2
    assert taken.left(rejects)["reject_reason"].to_pylist() == ["image_corrupt", "low_score"]


def test_a_rare_row_comes_back_too_but_select_had_let_it_pass():
    rare = reject(flow("r"), "count", [Reason.RARE_ENTITY]).select(REJECT.names)
    assert Taken(("rare_entity",), None).rescued(rare)["rescued"].to_pylist() == [False]


def test_nothing_is_rescued_unasked(found):
    rejects = found.rejects().to_table()
    assert ids(Taken((), None).left(rejects)) == ["b", "g", "c", "d"]


@pytest.mark.parametrize(("rows", "last"), [(0, None), (1, "a"), (3, "c"), (6, None), (99, None)])
def test_a_sample_is_the_rows_with_the_lowest_ids(found, rows, last):
    assert last_row_id(found, rows) == last


def test_a_sample_holds_for_labels_and_rejects_alike(found):
    taken = Taken(("low_score",), last_row_id(found, 3))
    assert ids(taken.labels(found.labels().to_table())) == ["a"]
    assert ids(taken.rescued(found.rejects().to_table())) == ["b"]
    assert ids(taken.left(found.rejects().to_table())) == ["c"]

from __future__ import annotations

import pyarrow as pa
import pytest

from raylab.errors import RaylabError
from raylab.schema import FLOW, LABEL, REJECT, Reason, alive, check_version, reject, row_id, widen


def pairs(n: int) -> pa.Table:
    columns = {"row_id": [f"r{i}" for i in range(n)], "shard": ["s"] * n, "key": [str(i) for i in range(n)]}
    return widen(pa.table(columns))


# The value is kept: ids of stored labels must not change.
def test_a_row_id_depends_on_shard_key_and_occurrence_only():
    assert row_id("a.tar", "1") == "e0247c8d2308748838d72828e333f046"
    others = {row_id("a.tar", "1"), row_id("a.tar", "2"), row_id("b.tar", "1"), row_id("a.tar", "1", 1)}
    assert len(others) == 4


def test_parts_of_an_id_cannot_flow_into_each_other():
    assert row_id("a", "b1") != row_id("ab", "1")


def test_widen_adds_every_flow_column_and_keeps_extra_ones():
    wide = widen(pa.table({"row_id": ["a"], "extra": [1]}))
    assert wide.column_names == [*FLOW.names, "extra"]
    assert wide.select(FLOW.names).schema.types == FLOW.types


def test_the_first_reason_stays():
    batch = reject(pairs(3), "source", [None, Reason.BAD_ROW, None])
    batch = reject(batch, "select", [None, Reason.LOW_SCORE, Reason.LOW_SCORE], ["x", "y", "z" * 900])
    assert batch["reject_reason"].to_pylist() == [None, "bad_row", "low_score"]
    assert batch["reject_step"].to_pylist() == [None, "source", "select"]
    assert batch["reject_detail"].to_pylist() == [None, None, "z" * 500]
    assert alive(batch).to_pylist() == [True, False, False]


def test_reasons_must_fit_the_batch():
    with pytest.raises(ValueError, match="2 reasons"):
        reject(pairs(3), "source", [None, None])


@pytest.mark.parametrize("schema", [LABEL, REJECT])
def test_the_version_is_checked(schema):
    check_version(schema, "x.parquet")
    with pytest.raises(RaylabError, match=r"x\.parquet has schema version 7"):
        check_version(schema.with_metadata({"raylab_schema_version": "7"}), "x.parquet")
    with pytest.raises(RaylabError, match="version none"):
        check_version(schema.remove_metadata(), "x.parquet")


def test_every_reason_is_either_a_failure_or_a_rejection():
    assert {reason for reason in Reason if reason.is_failure} == {
        Reason.STEP_ERROR,
        Reason.WORKER_CRASH,
        Reason.ENGINE_CRASH,
    }

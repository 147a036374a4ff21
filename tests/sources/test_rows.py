from __future__ import annotations

from dataclasses import replace

import pytest

from raylab.errors import RaylabError
from raylab.schema import PAIR, row_id
from raylab.sources import Columns, Limits, Shard, SourceConfig
from raylab.sources.rows import Record, make_tables

SHARD = Shard(name="s.tar", uri="/data/s.tar", version="1", size=1)
CONFIG = SourceConfig("/data")
IMAGE = ("/data/s.tar", 512, 100)


def rows_of(*records: Record, config: SourceConfig = CONFIG) -> list[dict]:
    return [row for table in make_tables(records, SHARD, config) for row in table.to_pylist()]


def breaks_after(count: int, error: Exception):
    for index in range(count):
        yield Record(str(index), "text", IMAGE)
    raise error


def test_a_row_holds_what_its_record_holds():
    record = Record("k", "A caption", IMAGE, "http://u", "CC0", truth=["Q1"])
    assert rows_of(record) == [
        {
            "row_id": row_id("s.tar", "k"),
            "shard": "s.tar",
            "key": "k",
            "url": "http://u",
            "licence": "CC0",
            "caption": "A caption",
            "image": {"uri": "/data/s.tar", "offset": 512, "size": 100},
            "truth": ["Q1"],
            "reject_step": None,
            "reject_reason": None,
            "reject_detail": None,
        }
    ]


def test_tables_have_the_schema_and_the_size_asked_for():
    config = replace(CONFIG, chunk_rows=4)
    tables = list(make_tables((Record(str(index), "x", IMAGE) for index in range(10)), SHARD, config))
    assert [table.num_rows for table in tables] == [4, 4, 2]
    assert all(table.schema.equals(PAIR, check_metadata=True) for table in tables)


@pytest.mark.parametrize(
    ("caption", "reason"),
    [
        ("fine", None),
        (" padded ", None),
        (None, "missing_caption"),
        ("", "empty_caption"),
        ("\t\u3000\n", "empty_caption"),
        ("a\0", "caption_not_text"),
        ("\udcff", "caption_not_text"),
        (5, "caption_not_text"),
        (b"bytes", "caption_not_text"),
        ({"a": 1}, "caption_not_text"),
        ("x" * 101, "caption_too_long"),
        ("\0" * 101, "caption_too_long"),
    ],
)
def test_captions_are_checked(caption, reason):
    row = rows_of(Record("k", caption, IMAGE), config=replace(CONFIG, limits=Limits(max_caption_chars=100)))[0]
    assert row["reject_reason"] == reason
    assert row["reject_step"] == (reason and "source")
    assert len(row["caption"] or "") <= 100


def test_the_first_problem_is_the_one_told():
    broken = Record("a", None, None, problem=("bad_row", "why"))
    with pytest.raises(AttributeError):
        rows_of(broken)  # a Reason, not its text
    rows = rows_of(Record("a", "x", IMAGE), Record("a", None, None), Record("b", None, None))
    assert [row["reject_reason"] for row in rows] == [None, "duplicate_key", "missing_image"]


def test_equal_keys_get_ids_of_their_own():
    rows = rows_of(*[Record("k", "x", IMAGE)] * 3)
    assert [row["row_id"] for row in rows] == [row_id("s.tar", "k", index) for index in range(3)]
    assert [row["reject_reason"] for row in rows] == [None, "duplicate_key", "duplicate_key"]


def test_a_list_of_captions_is_a_row_for_each():
    rows = rows_of(Record("k", ["a", None, "c"], IMAGE), Record("n", [], IMAGE))
    assert [(row["key"], row["caption"], row["reject_reason"]) for row in rows] == [
        ("k", "a", None),
        ("k#1", None, "missing_caption"),
        ("k#2", "c", None),
        ("n", None, "missing_caption"),
    ]


def test_no_image_is_asked_for_where_none_is_read():
    config = replace(CONFIG, columns=Columns(image=""))
    assert rows_of(Record("k", "x"), config=config)[0]["reject_reason"] is None


def test_a_shard_without_rows_is_one_row():
    rows = rows_of()
    assert [(row["key"], row["reject_reason"]) for row in rows] == [("", "empty_shard")]
    assert "/data/s.tar" in rows[0]["reject_detail"]


@pytest.mark.parametrize(("count", "reason"), [(0, "unreadable_shard"), (3, "truncated_shard")])
def test_a_shard_that_breaks_keeps_what_came_before(count, reason):
    rows = [
        row for table in make_tables(breaks_after(count, OSError("disk")), SHARD, CONFIG) for row in table.to_pylist()
    ]
    assert [row["reject_reason"] for row in rows] == [None] * count + [reason]
    assert rows[-1]["reject_detail"] == "/data/s.tar: OSError: disk"


@pytest.mark.parametrize("error", [RaylabError("no column"), RuntimeError("a bug"), MemoryError()])
def test_what_is_not_the_files_fault_is_raised(error):
    with pytest.raises(type(error)):
        list(make_tables(breaks_after(1, error), SHARD, CONFIG))


def test_what_is_not_unicode_is_written_out():
    row = rows_of(Record("k\udcff", "x", IMAGE, "u\ud800", "l\udc80"))[0]
    assert (row["key"], row["url"], row["licence"]) == ("k\\udcff", "u\\ud800", "l\\udc80")

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sources.source_files import jpeg, read_all, reasons, write_images, write_parquet

from raylab.errors import RaylabError
from raylab.schema import Reason
from raylab.sources import Columns, SourceConfig, open_source, parquet

JPEGS = [jpeg(seed) for seed in range(6)]
CAPTIONS = [f"caption {index}" for index in range(6)]


def source_of(path, **config):
    return open_source(SourceConfig(str(path), **config))


def images_of(source, rows):
    return source.image_bytes([row["image"] for row in rows])


def test_image_bytes_are_referred_to_by_row(tmp_path):
    columns = {"image": JPEGS, "caption": CAPTIONS, "url": [f"u{i}" for i in range(6)], "license": ["x"] * 6}
    source = source_of(write_parquet(tmp_path / "p.parquet", columns, row_group_size=2))
    rows = read_all(source)
    assert [row["key"] for row in rows] == list("012345")
    assert rows[3]["image"] == {"uri": str(tmp_path / "p.parquet"), "offset": 3, "size": -1}
    assert (rows[2]["url"], rows[2]["licence"]) == ("u2", "x")
    assert images_of(source, rows) == JPEGS


def test_references_may_come_in_any_order_and_twice(tmp_path):
    columns = {"image": JPEGS, "caption": CAPTIONS}
    source = source_of(write_parquet(tmp_path / "p.parquet", columns, row_group_size=2))
    rows = read_all(source)
    order = [4, 0, 5, 5, 1, 3, 0]
    assert images_of(source, [rows[index] for index in order]) == [JPEGS[index] for index in order]
    assert images_of(source, rows[:1]) == JPEGS[:1]


def test_one_reader_serves_several_files(tmp_path):
    for name in ("a", "b"):
        columns = {"image": [name.encode() + data for data in JPEGS], "caption": CAPTIONS}
        write_parquet(tmp_path / f"{name}.parquet", columns)
    source = source_of(tmp_path)
    rows = read_all(source)
    assert images_of(source, rows[::-1]) == [b"b" + data for data in JPEGS[::-1]] + [
        b"a" + data for data in JPEGS[::-1]
    ]


def test_only_a_few_images_are_held_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "IMAGE_BATCH_ROWS", 2)
    source = source_of(write_parquet(tmp_path / "p.parquet", {"image": JPEGS, "caption": CAPTIONS}))
    rows = read_all(source)
    assert images_of(source, rows[:3]) == JPEGS[:3]
    assert images_of(source, rows[3:]) == JPEGS[3:]
    assert images_of(source, rows[1:2]) == JPEGS[1:2]


def test_a_struct_holds_bytes_or_a_path(tmp_path):
    names = write_images(tmp_path, 2)
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    held = [{"bytes": data, "path": None} for data in JPEGS[:2]]
    named = [{"bytes": None, "path": name} for name in names]
    columns = {"image": pa.array([*held, *named], struct), "caption": CAPTIONS[:4]}
    source = source_of(write_parquet(tmp_path / "p.parquet", columns, row_group_size=2))
    rows = read_all(source)
    assert [row["reject_reason"] for row in rows] == [None] * 4
    assert images_of(source, rows) == [*JPEGS[:2], *JPEGS[:2]]


def test_a_text_column_holds_paths(tmp_path):
    names = write_images(tmp_path / "t", 2)
    paths = [
        names[0],
        str(tmp_path / "t" / names[1]),
        "../outside.jpg",
        "/etc/passwd",
        "http://x/y.jpg",
        None,
        "gone.jpg",
    ]
    columns = {"image": paths, "caption": ["x"] * 7}
    source = source_of(write_parquet(tmp_path / "t" / "p.parquet", columns))
    rows = read_all(source)
    assert [row["reject_reason"] for row in rows] == [None, None, *["missing_image"] * 4, None]
    assert "wider source" in rows[2]["reject_detail"]
    assert images_of(source, rows) == [*JPEGS[:2], *[Reason.MISSING_IMAGE] * 5]


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string()), pa.binary()]
)
def test_every_kind_of_text_is_a_caption(tmp_path, kind):
    plain = pa.array([b"a", b"b"], pa.binary()) if kind == pa.binary() else pa.array(["a", "b"]).cast(kind)
    source = source_of(write_parquet(tmp_path / "p.parquet", {"image": JPEGS[:2], "caption": plain}))
    assert [row["caption"] for row in read_all(source)] == ["a", "b"]


def test_a_list_of_captions_is_a_row_for_each(tmp_path):
    columns = {"image": JPEGS[:3], "caption": [["a", "b"], [], None], "key": ["x", "y", "z"]}
    rows = read_all(source_of(write_parquet(tmp_path / "p.parquet", columns)))
    assert reasons(rows) == {"x": None, "x#1": None, "y": "missing_caption", "z": "missing_caption"}
    assert rows[0]["image"] == rows[1]["image"]


def test_bad_text_costs_its_own_row(tmp_path):
    bad = pa.array([b"good", b"Caf\xe9", b"a\0b", None, b""], pa.binary())
    text = pa.StringArray.from_buffers(5, *bad.buffers()[1:3], bad.buffers()[0])
    rows = read_all(source_of(write_parquet(tmp_path / "p.parquet", {"image": JPEGS[:5], "caption": text})))
    expected = [None, "caption_not_text", "caption_not_text", "missing_caption", "empty_caption"]
    assert [row["reject_reason"] for row in rows] == expected


@pytest.mark.parametrize("kind", [pa.null(), pa.string(), pa.binary()])
def test_columns_of_nulls_are_reasons(tmp_path, kind):
    nulls = pa.nulls(3, kind)
    no_image = source_of(write_parquet(tmp_path / "a.parquet", {"image": nulls, "caption": CAPTIONS[:3]}))
    assert [row["reject_reason"] for row in read_all(no_image)] == ["missing_image"] * 3
    no_text = source_of(write_parquet(tmp_path / "b.parquet", {"image": JPEGS[:3], "caption": nulls}))
    assert [row["reject_reason"] for row in read_all(no_text)] == ["missing_caption"] * 3


def test_single_null_and_empty_images_are_told_when_they_are_read(tmp_path):
    columns = {"image": [JPEGS[0], None, b""], "caption": CAPTIONS[:3]}
    source = source_of(write_parquet(tmp_path / "p.parquet", columns))
    assert images_of(source, read_all(source)) == [JPEGS[0], Reason.MISSING_IMAGE, Reason.IMAGE_EMPTY]


def test_captions_alone_can_be_read(tmp_path):
    path = write_parquet(tmp_path / "p.parquet", {"URL": ["u"], "TEXT": ["some text"]})
    rows = read_all(source_of(path, columns=Columns(image="", caption="TEXT", url="URL")))
    assert (rows[0]["caption"], rows[0]["url"], rows[0]["image"], rows[0]["reject_reason"]) == (
        "some text",
        "u",
        None,
        None,
    )


def test_a_missing_column_is_an_error_that_lists_those_present(tmp_path):
    path = write_parquet(tmp_path / "p.parquet", {"img": JPEGS, "captions": CAPTIONS})
    with pytest.raises(RaylabError, match=r"no column 'image'.*present: img, captions"):
        source_of(path).shards()
    with pytest.raises(RaylabError, match=r"no column 'caption'.*Did you mean 'captions'\?"):
        source_of(path, columns=Columns(image="img")).shards()


def test_columns_that_cannot_be_what_they_should_are_errors(tmp_path):
    path = write_parquet(tmp_path / "p.parquet", {"image": [1.5], "caption": [3]})
    with pytest.raises(RaylabError, match="'image' is double"):
        source_of(path).shards()
    with pytest.raises(RaylabError, match="'caption' is int64"):
        source_of(path, columns=Columns(image="")).shards()


def test_a_column_that_is_there_twice_is_an_error(tmp_path):
    table = pa.Table.from_arrays([pa.array(["a"])] * 3, ["caption", "caption", "image"])
    pq.write_table(table, tmp_path / "p.parquet")
    with pytest.raises(RaylabError, match="2 columns 'caption'"):
        source_of(tmp_path / "p.parquet").shards()


def test_shards_are_runs_of_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "SHARD_ROWS", 4)
    source = source_of(write_parquet(tmp_path / "p.parquet", {"image": JPEGS, "caption": CAPTIONS}, row_group_size=1))
    shards = source.shards()
    assert [shard.name for shard in shards] == ["p.parquet#0-3", "p.parquet#4-5"]
    assert [row["key"] for row in read_all(source, shards[1])] == ["4", "5"]
    assert images_of(source, read_all(source, shards[1])) == JPEGS[4:]


def test_keys_are_text_and_duplicates_are_told(tmp_path):
    columns = {"image": JPEGS[:3], "caption": CAPTIONS[:3], "key": [7, 8, 7]}
    rows = read_all(source_of(write_parquet(tmp_path / "p.parquet", columns)))
    assert [(row["key"], row["reject_reason"]) for row in rows] == [("7", None), ("8", None), ("7", "duplicate_key")]


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"", "empty_shard"), (b"PAR1 nothing PAR1", "unreadable_shard"), (b"x" * 99, "unreadable_shard")],
)
def test_what_is_no_parquet_is_one_row(tmp_path, data, reason):
    (tmp_path / "p.parquet").write_bytes(data)
    assert [row["reject_reason"] for row in read_all(source_of(tmp_path / "p.parquet"))] == [reason]


def test_a_parquet_without_rows_is_an_empty_shard(tmp_path):
    columns = {"image": pa.array([], pa.binary()), "caption": pa.array([], pa.string())}
    assert reasons(read_all(source_of(write_parquet(tmp_path / "p.parquet", columns)))) == {"": "empty_shard"}


def test_a_damaged_page_keeps_the_rows_before(tmp_path):
    columns = {"image": JPEGS, "caption": CAPTIONS}
    path = write_parquet(tmp_path / "p.parquet", columns, row_group_size=2, use_dictionary=False, compression="zstd")
    chunk = pq.ParquetFile(path).metadata.row_group(2).column(1)
    data = bytearray(path.read_bytes())
    data[chunk.data_page_offset : chunk.data_page_offset + chunk.total_compressed_size] = (
        b"\xff" * chunk.total_compressed_size
    )
    path.write_bytes(data)
    rows = read_all(source_of(path))
    assert [row["reject_reason"] for row in rows] == [None] * 4 + ["truncated_shard"]


def test_a_file_that_vanished_costs_its_images_only(tmp_path):
    source = source_of(write_parquet(tmp_path / "p.parquet", {"image": JPEGS, "caption": CAPTIONS}))
    rows = read_all(source)
    (tmp_path / "p.parquet").unlink()
    assert images_of(source, rows) == [Reason.IMAGE_UNREADABLE] * 6


def test_a_damaged_page_of_images_costs_its_row_group(tmp_path):
    columns = {"image": JPEGS, "caption": CAPTIONS}
    path = write_parquet(tmp_path / "p.parquet", columns, row_group_size=2, use_dictionary=False, compression="zstd")
    source = source_of(path)
    rows = read_all(source)
    chunk = pq.ParquetFile(path).metadata.row_group(1).column(0)
    data, size = bytearray(path.read_bytes()), chunk.total_compressed_size
    data[chunk.data_page_offset : chunk.data_page_offset + size] = b"\xff" * size
    path.write_bytes(data)
    assert images_of(source, rows) == [*JPEGS[:2], *[Reason.IMAGE_UNREADABLE] * 2, *JPEGS[4:]]

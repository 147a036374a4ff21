from __future__ import annotations

import bz2
import gzip
import json

import pytest
from sources.source_files import jpeg, read_all, reasons, write_csv, write_images, write_jsonl

from raylab.errors import RaylabError
from raylab.schema import Reason
from raylab.sources import Columns, SourceConfig, csvlines, open_source


def rows_of(path, **columns):
    return read_all(open_source(SourceConfig(str(path), Columns(**columns))))


def raw_jsonl(path, *lines: bytes):
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def good(image="a.jpg", caption="good") -> bytes:
    return json.dumps({"image": image, "caption": caption}).encode()


# ---- all tables


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_a_table_beside_its_images(tmp_path, kind):
    names = write_images(tmp_path, 3)
    rows = [(name, f"caption {index}", f"u{index}") for index, name in enumerate(names)]
    header = ["image", "caption", "url"]
    if kind == "jsonl":
        path = write_jsonl(tmp_path / "t.jsonl", [dict(zip(header, row)) for row in rows])
    else:
        path = write_csv(tmp_path / f"t.{kind}", header, rows, "\t" if kind == "tsv" else ",")
    source = open_source(SourceConfig(str(path)))
    found = read_all(source)
    assert [(row["key"], row["caption"], row["url"]) for row in found] == [
        (str(index), f"caption {index}", f"u{index}") for index in range(3)
    ]
    assert source.image_bytes([row["image"] for row in found]) == [jpeg(index) for index in range(3)]


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
def test_compressed_tables(tmp_path, pack):
    ending = {gzip.compress: "gz", bz2.compress: "bz2"}[pack]
    (tmp_path / f"t.csv.{ending}").write_bytes(pack(b"image,caption\na.jpg,x\nb.jpg,y\n"))
    assert [row["caption"] for row in rows_of(tmp_path / f"t.csv.{ending}")] == ["x", "y"]
    (tmp_path / f"cut.jsonl.{ending}").write_bytes(pack(b"".join(good() + b"\n" for _ in range(99)))[:-20])
    found = rows_of(tmp_path / f"cut.jsonl.{ending}")
    assert found[-1]["reject_reason"] in ("truncated_shard", "unreadable_shard")


def test_images_outside_of_the_source_are_not_read(tmp_path):
    write_images(tmp_path / "t", 1)
    (tmp_path / "secret.jpg").write_bytes(jpeg())
    paths = [
        *["images/000.jpg", "./images/../images/000.jpg", str(tmp_path / "t/images/000.jpg"), "../secret.jpg"],
        *["images/../../secret.jpg", "/etc/passwd", "http://127.0.0.1/x.jpg", "file:///etc/passwd", "a\0b", "a\ud800"],
        *[f"file://{tmp_path}/t/images/000.jpg", "", None, 5, ["x"], "t2/../../t-sibling/x.jpg"],
    ]
    path = write_jsonl(tmp_path / "t" / "t.jsonl", [{"image": image, "caption": "x"} for image in paths])
    rows = rows_of(path)
    inside = [row["image"]["uri"] if row["image"] else None for row in rows]
    whole = str(tmp_path / "t/images/000.jpg")
    assert inside == [whole, whole, whole, *[None] * 7, whole, *[None] * 5]
    assert all(row["reject_reason"] == (None if row["image"] else "missing_image") for row in rows)


def test_a_wider_source_lets_tables_name_their_neighbours(tmp_path):
    write_images(tmp_path, 1)
    write_jsonl(tmp_path / "tables" / "t.jsonl", [{"image": "../images/000.jpg", "caption": "x"}])
    assert reasons(rows_of(tmp_path / "tables" / "t.jsonl")) == {"0": "missing_image"}
    assert reasons(rows_of(tmp_path / "*" / "t.jsonl")) == {"0": None}


def test_an_image_that_is_not_there_is_told_when_it_is_read(tmp_path):
    source = open_source(SourceConfig(str(write_jsonl(tmp_path / "t.jsonl", [{"image": "no.jpg", "caption": "x"}]))))
    assert source.image_bytes([row["image"] for row in read_all(source)]) == [Reason.MISSING_IMAGE]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("t.csv", b""),
        ("t.csv", b"image,caption\n"),
        ("t.tsv", b"image\tcaption"),
        ("t.jsonl", b""),
        ("t.jsonl", b"\n\n"),
    ],
)
def test_an_empty_table_is_an_empty_shard(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    assert reasons(rows_of(tmp_path / name)) == {"": "empty_shard"}


# ---- JSON Lines


def test_one_broken_line_is_one_bad_row(tmp_path):
    bad = [b"{", b'"text"', b"[" * 99_999, b'{"image": 1e999999', b"\xff\xfe", b'{"image":"a.jpg","caption":"x"} junk']
    rows = rows_of(raw_jsonl(tmp_path / "t.jsonl", good(), *bad, b"", good()))
    assert [row["reject_reason"] for row in rows] == [None, *["bad_row"] * len(bad), None]
    assert rows[1]["key"] == "line 1"


def test_bad_text_in_json_costs_its_own_row(tmp_path):
    lines = [
        b'{"image": "a.jpg", "caption": "Caf\xe9"}',
        b'{"image": "a.jpg", "caption": "a\\u0000b"}',
        b'{"image": "a.jpg", "caption": "\\ud800"}',
        b'{"image": "a.jpg", "caption": 5}',
        b'{"image": "a.jpg", "caption": {}}',
        b'{"image": "a.jpg"}',
        b'{"image": "a.jpg", "caption": "' + b"x" * 1_000_000 + b'"}',
        b'{"image": "a.jpg", "caption": "fine", "url": "u\xe9"}',
    ]
    rows = rows_of(raw_jsonl(tmp_path / "t.jsonl", *lines))
    expected = [*["caption_not_text"] * 5, "missing_caption", "caption_too_long", None]
    assert [row["reject_reason"] for row in rows] == expected


def test_a_line_without_end_is_one_bad_row(tmp_path, monkeypatch):
    monkeypatch.setattr(csvlines, "MAX_LINE_BYTES", 1000)
    monkeypatch.setattr("raylab.sources.tabular.MAX_LINE_BYTES", 1000)
    rows = rows_of(raw_jsonl(tmp_path / "t.jsonl", good(), good(caption="x" * 5000), good()))
    assert [row["reject_reason"] for row in rows] == [None, "bad_row", None]


@pytest.mark.parametrize("size", [1, 7, 40, 64, 100, 1000, 10_000])
def test_large_json_lines_are_cut_at_line_ends(tmp_path, monkeypatch, size):
    rows = [{"image": "a.jpg", "caption": f"{row} " + "x" * (row % 60), "key": f"k{row}"} for row in range(50)]
    path = write_jsonl(tmp_path / "t.jsonl", rows)
    monkeypatch.setattr("raylab.sources.tabular.SHARD_BYTES", size)
    shards = open_source(SourceConfig(str(path))).shards()
    assert shards[0].name == "t.jsonl"
    assert len(shards) == -(-path.stat().st_size // size)
    found = [row for row in rows_of(path) if row["reject_reason"] != "empty_shard"]
    assert [row["key"] for row in found] == [row["key"] for row in rows]
    assert all(row["image"]["uri"] == str(tmp_path / "a.jpg") for row in found)


def test_rows_of_a_growing_file_keep_their_ids(tmp_path, monkeypatch):
    monkeypatch.setattr("raylab.sources.tabular.SHARD_BYTES", 100)
    path = tmp_path / "t.jsonl"
    raw_jsonl(path, *[good()] * 3)
    before = [row["row_id"] for row in rows_of(path) if row["caption"]]
    raw_jsonl(path, *[good()] * 9)
    after = [row["row_id"] for row in rows_of(path) if row["caption"]]
    assert (len(before), len(after), after[:3]) == (3, 9, before)


def test_a_missing_key_is_an_error_that_lists_those_present(tmp_path):
    path = write_jsonl(tmp_path / "t.jsonl", [{"file": "a.jpg", "captions": "x"}])
    with pytest.raises(RaylabError, match=r"t.jsonl: no column 'image' for the image; present: file, captions"):
        open_source(SourceConfig(str(path))).shards()


# ---- CSV and TSV


def test_quotes_line_breaks_and_a_byte_order_mark(tmp_path):
    text = '\ufeffimage,caption\r\na.jpg,"one, ""two""\r\nthree"\r\nb.jpg,12" record\r\n'
    (tmp_path / "t.csv").write_bytes(text.encode())
    assert [row["caption"] for row in rows_of(tmp_path / "t.csv")] == ['one, "two"\r\nthree', '12" record']


def test_an_open_quote_costs_its_own_line(tmp_path):
    lines = ["image,caption", "a.jpg,fine", 'b.jpg,"open', "c.jpg,fine", 'd.jpg,"with, comma"', "e.jpg,fine"]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    rows = rows_of(tmp_path / "t.csv")
    assert [row["reject_reason"] for row in rows] == [None, "bad_row", None, None, None]
    assert [row["caption"] for row in rows if row["caption"]] == ["fine", "fine", "with, comma", "fine"]


def test_an_open_quote_at_the_end_costs_its_own_line(tmp_path):
    (tmp_path / "t.csv").write_text('image,caption\na.jpg,"open\nb.jpg,fine\nc.jpg,fine')
    assert [row["reject_reason"] for row in rows_of(tmp_path / "t.csv")] == ["bad_row", None, None]


def test_tsv_comes_with_quoting_and_without(tmp_path):
    lines = [
        "image\tcaption",
        'a.jpg\t"a ""b""\tc"',
        'b.jpg\t12" vinyl',
        'c.jpg\t"open',
        'd.jpg\t"one" and two',
        'e.jpg\t"x\ny"',
    ]
    (tmp_path / "t.tsv").write_text("\n".join(lines) + "\n")
    rows = rows_of(tmp_path / "t.tsv")
    assert [row["caption"] for row in rows] == ['a "b"\tc', '12" vinyl', '"open', '"one" and two', "x\ny"]


def test_a_row_beyond_all_measure_is_one_bad_row(tmp_path, monkeypatch):
    monkeypatch.setattr(csvlines, "MAX_ROW_CHARS", 500)
    row = "a.jpg," + "x" * 600
    (tmp_path / "t.csv").write_text(f'image,caption\n{row}\nb.jpg,fine\nc.jpg,"open\nd.jpg,fine\n')
    assert [row["reject_reason"] for row in rows_of(tmp_path / "t.csv")] == ["bad_row", None, "bad_row", None]


def test_lines_of_another_length_are_bad_rows(tmp_path):
    (tmp_path / "t.tsv").write_text("image\tcaption\na.jpg\nb.jpg\tfine\nc.jpg\tx\ty\n\nd.jpg\tfine\n")
    assert [row["reject_reason"] for row in rows_of(tmp_path / "t.tsv")] == ["bad_row", None, "bad_row", None]


@pytest.mark.parametrize("quote", ["", '"'])
def test_large_fields_are_read(tmp_path, quote):
    large = "x" * 300_000
    path = tmp_path / "t.csv"
    path.write_text(
        f"image,caption,notes\na.jpg,fine,{quote}{large}{quote}\nb.jpg,{quote}{large}{quote},\nc.jpg,fine,\n"
    )
    assert [row["reject_reason"] for row in rows_of(path)] == [None, "caption_too_long", None]


def test_a_large_field_with_line_breaks_and_bad_bytes(tmp_path):
    field = b'"' + b'caf\xe9 ""x""\n' * 20_000 + b'"'
    (tmp_path / "t.csv").write_bytes(b"image,caption,notes\na.jpg,fine," + field + b"\nb.jpg,fine,\n")
    assert [row["reject_reason"] for row in rows_of(tmp_path / "t.csv")] == [None, None]


def test_a_large_field_that_never_closes_costs_its_own_line(tmp_path):
    lines = "".join(f"{index}.jpg,fine\n" for index in range(20_000))
    (tmp_path / "t.csv").write_text('image,caption\na.jpg,"open\n' + lines)
    rows = rows_of(tmp_path / "t.csv")
    assert [row["reject_reason"] for row in rows] == ["bad_row"] + [None] * 20_000


def test_bad_text_in_csv_costs_its_own_row(tmp_path):
    (tmp_path / "t.csv").write_bytes(b'image,caption\na.jpg,Caf\xe9\nb.jpg,a\0b\nc.jpg,"a\0"\nd.jpg,\ne.jpg,fine\n')
    expected = [*["caption_not_text"] * 3, "empty_caption", None]
    assert [row["reject_reason"] for row in rows_of(tmp_path / "t.csv")] == expected


def test_a_header_that_cannot_be_used_is_an_error(tmp_path):
    for text, message in [
        ("image,caption,caption\n", "names 'caption' twice"),
        ("file,alt\nx,y\n", "no column 'image' for the image; present: file, alt"),
        ("file,alt\n", "no column 'image'"),
    ]:
        (tmp_path / "t.csv").write_text(text)
        with pytest.raises(RaylabError, match=message):
            open_source(SourceConfig(str(tmp_path / "t.csv"))).shards()
    (tmp_path / "t.csv").write_bytes("image,caption\na.jpg,x\n".encode("utf-16"))
    with pytest.raises(RaylabError, match="Save the table as UTF-8"):
        open_source(SourceConfig(str(tmp_path / "t.csv"))).shards()


def test_keys_may_be_named(tmp_path):
    path = write_csv(tmp_path / "t.csv", ["id", "image", "caption"], [("x", "a.jpg", "1"), ("x", "b.jpg", "2")])
    assert [row["reject_reason"] for row in rows_of(path, key="id")] == [None, "duplicate_key"]

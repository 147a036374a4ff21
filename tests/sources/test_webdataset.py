from __future__ import annotations

import gzip
import io
import json
import tarfile

import pytest
from sources.source_files import jpeg, pair_members, read_all, reasons, write_tar

from raylab.errors import RaylabError
from raylab.sources import Columns, SourceConfig, open_source
from raylab.sources.webdataset import MAX_TEXT_BYTES


def rows_of(path, **config):
    return read_all(open_source(SourceConfig(str(path), **config)))


def test_pairs_keep_caption_url_and_licence(tmp_path):
    path = write_tar(tmp_path / "a.tar", pair_members("k1", "A red flag", 1) + pair_members("k2", "Ein Tor", 2))
    rows = rows_of(path)
    assert [row["key"] for row in rows] == ["k1", "k2"]
    assert [row["caption"] for row in rows] == ["A red flag", "Ein Tor"]
    assert rows[0]["url"] == "https://example.org/k1.jpg"
    assert rows[0]["licence"] == "CC0"
    assert open_source(SourceConfig(str(path))).image_bytes([row["image"] for row in rows]) == [jpeg(1), jpeg(2)]


def test_a_key_ends_at_the_first_dot_of_the_last_part(tmp_path):
    members = [("v1.0/a.b.jpg", jpeg()), ("v1.0/a.txt", b"one"), ("v1.0/c.thumb.jpg", b"small"), ("v1.0/c.jpg", jpeg())]
    rows = rows_of(write_tar(tmp_path / "a.tar", members))
    assert reasons(rows) == {"v1.0/a": None, "v1.0/c": "missing_caption"}
    assert rows[1]["image"]["size"] == len(jpeg())


def test_json_goes_before_text_and_text_fills_in(tmp_path):
    members = [
        *[("a.jpg", jpeg()), ("a.txt", b"from text"), ("a.json", b'{"caption": "from json"}')],
        *[("b.jpg", jpeg()), ("b.txt", b"from text"), ("b.json", b'{"caption": null, "url": "u"}')],
        *[("c.jpg", jpeg()), ("c.txt", b"from text")],
    ]
    rows = rows_of(write_tar(tmp_path / "a.tar", members))
    assert [row["caption"] for row in rows] == ["from json", "from text", "from text"]


def test_json_keys_are_configurable(tmp_path):
    members = pair_members("a", "x", alt="the alt text", LICENSE="CC-BY", src="http://s")
    columns = Columns(caption="alt", licence="LICENSE", url="src")
    row = rows_of(write_tar(tmp_path / "a.tar", members), columns=columns)[0]
    assert (row["caption"], row["licence"], row["url"]) == ("the alt text", "CC-BY", "http://s")


def test_what_is_missing_is_a_reason(tmp_path):
    members = [("a.txt", b"no image"), ("b.jpg", jpeg()), ("c.jpg", b""), ("c.txt", b"empty image")]
    path = write_tar(tmp_path / "a.tar", members)
    rows = rows_of(path)
    assert reasons(rows) == {"a": "missing_image", "b": "missing_caption", "c": None}
    assert open_source(SourceConfig(str(path))).image_bytes([rows[2]["image"]]) == ["image_empty"]


def test_bad_captions_cost_their_own_row(tmp_path):
    captions = {
        "long": b"x" * 1_000_000,
        "latin": "Caf\xe9".encode("latin-1"),
        "nul": b"a\0b",
        "blank": b" \n",
        "good": "Caf\xe9".encode(),
        "huge": b"y" * (MAX_TEXT_BYTES + 1),
    }
    members = [member for key, text in captions.items() for member in ((f"{key}.jpg", jpeg()), (f"{key}.txt", text))]
    rows = rows_of(write_tar(tmp_path / "a.tar", members))
    assert reasons(rows) == {
        "long": "caption_too_long",
        "latin": "caption_not_text",
        "nul": "caption_not_text",
        "blank": "empty_caption",
        "good": None,
        "huge": "bad_row",
    }
    assert len(rows[0]["caption"]) == 10_000
    assert rows[1]["caption"] == "Caf\\udce9"


@pytest.mark.parametrize("bad", [b"{", b"[1]", b"[" * 100_000, b"\xff\xfe{}", b""])
def test_a_broken_json_member_is_a_bad_row(tmp_path, bad):
    members = [("a.jpg", jpeg()), ("a.json", bad), ("a.txt", b"text"), *pair_members("b", "good")]
    assert reasons(rows_of(write_tar(tmp_path / "a.tar", members))) == {"a": "bad_row", "b": None}


def test_surrogates_in_json_cost_their_own_row(tmp_path):
    data = json.dumps({"caption": "x \ud800 y", "url": "u\ud800"}).encode()
    rows = rows_of(write_tar(tmp_path / "a.tar", [("a.jpg", jpeg()), ("a.json", data)]))
    assert (rows[0]["reject_reason"], rows[0]["url"]) == ("caption_not_text", "u\\ud800")


def test_a_key_that_comes_again_is_a_duplicate(tmp_path):
    members = (
        pair_members("a", "first") + pair_members("a", "second") + pair_members("b", "x") + pair_members("a", "3rd")
    )
    rows = rows_of(write_tar(tmp_path / "a.tar", members))
    assert [row["reject_reason"] for row in rows] == [None, "duplicate_key", None, "duplicate_key"]
    assert len({row["row_id"] for row in rows}) == 4


def test_other_members_are_passed_over(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for kind, name in ((tarfile.DIRTYPE, "d"), (tarfile.SYMTYPE, "link.jpg"), (tarfile.FIFOTYPE, "pipe.jpg")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        for name, data in [("._a.jpg", b"mac"), *pair_members("a", "x")]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    assert reasons(rows_of(path)) == {"a": None}


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_long_and_odd_names_in_every_tar_dialect(tmp_path, form):
    path = tmp_path / "a.tar"
    key = "folder/" * 15 + "näme" if form != tarfile.USTAR_FORMAT else "folder/" * 15 + "name"
    with tarfile.open(path, "w", format=form) as archive:
        for name, data in pair_members(key, "x"):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    assert reasons(rows_of(path)) == {key: None}


def test_names_that_are_not_utf8_are_written_out(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as archive:
        info = tarfile.TarInfo("caf\xe9.txt")
        archive.addfile(info)
    assert [row["key"] for row in rows_of(path)] == ["caf\\xe9"]


# ---- damage


@pytest.fixture
def three(tmp_path):
    members = [member for key in "abc" for member in pair_members(key, f"caption {key}")]
    return write_tar(tmp_path / "a.tar", members)


def offsets(path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(path) as archive:
        return {member.name: member for member in archive}


def test_a_cut_inside_a_member_keeps_the_rows_before(three):
    cut = offsets(three)["c.jpg"].offset_data + 10
    three.write_bytes(three.read_bytes()[:cut])
    rows = rows_of(three)
    assert reasons(rows) == {"a": None, "b": None, "c": "truncated_shard"}
    assert "c.jpg" in rows[2]["reject_detail"]


@pytest.mark.parametrize("beyond", [0, 100], ids=["at a header", "inside a header"])
def test_a_cut_between_members_keeps_the_rows_before(three, beyond):
    cut = offsets(three)["c.jpg"].offset + beyond
    three.write_bytes(three.read_bytes()[:cut])
    assert reasons(rows_of(three)) == {"a": None, "b": None, "": "truncated_shard"}


def test_every_cut_keeps_what_lies_before_it(three):
    whole, members = three.read_bytes(), offsets(three)
    last = members["c.txt"].offset_data + members["c.txt"].size
    for cut in range(1, last, 379):
        three.write_bytes(whole[:cut])
        found = reasons(rows_of(three))
        survivors = [key for key in "abc" if members[f"{key}.txt"].offset_data + members[f"{key}.txt"].size <= cut]
        assert [key for key in survivors if found.get(key, "lost") is not None] == []
        assert {"truncated_shard", "unreadable_shard"} & set(found.values())


def test_a_damaged_header_is_not_taken_for_the_end(three):
    data = bytearray(three.read_bytes())
    at = offsets(three)["b.jpg"].offset
    data[at : at + 20] = b"\xff" * 20
    three.write_bytes(data)
    assert reasons(rows_of(three)) == {"a": None, "": "truncated_shard"}


def test_tars_put_one_after_the_other_are_read_to_the_end(tmp_path):
    one, two = (write_tar(tmp_path / f"{key}.tar", pair_members(key, key)) for key in "ab")
    both = tmp_path / "both" / "x.tar"
    both.parent.mkdir()
    both.write_bytes(one.read_bytes() + two.read_bytes())
    rows = rows_of(both)
    assert reasons(rows) == {"a": None, "b": None}
    assert all(isinstance(data, bytes) for data in open_source(SourceConfig(str(both))).image_bytes([rows[1]["image"]]))


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"", "empty_shard"), (b"no tar" * 1000, "unreadable_shard"), (b"x", "unreadable_shard")],
)
def test_what_is_no_tar_is_one_row(tmp_path, data, reason):
    (tmp_path / "a.tar").write_bytes(data)
    rows = rows_of(tmp_path / "a.tar")
    assert [row["reject_reason"] for row in rows] == [reason]
    assert str(tmp_path / "a.tar") in rows[0]["reject_detail"]


def test_a_tar_without_members_is_an_empty_shard(tmp_path):
    assert reasons(rows_of(write_tar(tmp_path / "a.tar", []))) == {"": "empty_shard"}


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "a.tar.zst"])
def test_a_compressed_tar_is_refused_with_the_way_out(tmp_path, name):
    (tmp_path / name).write_bytes(gzip.compress(b"x"))
    with pytest.raises(RaylabError, match="Decompress it"):
        open_source(SourceConfig(str(tmp_path))).shards()


def test_captions_alone_can_be_read(tmp_path):
    rows = rows_of(write_tar(tmp_path / "a.tar", [("a.txt", b"text")]), columns=Columns(image=""))
    assert (rows[0]["reject_reason"], rows[0]["image"]) == (None, None)

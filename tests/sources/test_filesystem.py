from __future__ import annotations

import os
import uuid

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st
from sources.source_files import (
    jpeg,
    pair_members,
    read_all,
    reasons,
    write_images,
    write_jsonl,
    write_parquet,
    write_tar,
)

from raylab.errors import RaylabError
from raylab.schema import Reason
from raylab.sources import Columns, SourceConfig, filesystem, open_source
from raylab.sources.filesystem import list_files, read_ranges, resolve_inside


@pytest.fixture
def tree(tmp_path):
    for name in ("b.tar", "a.tar", "sub/c.tar", "_SUCCESS", ".git/x.tar", "_tmp/y.tar"):
        write_tar(tmp_path / name, pair_members(name, "x"))
    return tmp_path


def names(uri) -> list[str]:
    return [file.name for file in list_files(str(uri))]


# ---- listing


def test_a_file_a_folder_and_a_glob(tree):
    assert names(tree) == ["a.tar", "b.tar", "sub/c.tar"]
    assert names(f"{tree}/") == ["a.tar", "b.tar", "sub/c.tar"]
    assert names(tree / "a.tar") == ["a.tar"]
    assert names(tree / "*.tar") == ["a.tar", "b.tar"]
    assert names(tree / "[bc].tar") == ["b.tar"]
    assert names(tree / "**" / "*.tar") == ["a.tar", "b.tar", "sub/c.tar"]
    assert names(tree / "s*" / "c.tar") == ["sub/c.tar"]
    assert names(f"file://{tree}/a.tar") == ["a.tar"]


def test_hidden_files_are_read_only_when_named(tree):
    assert names(tree / ".git" / "x.tar") == ["x.tar"]
    with pytest.raises(RaylabError, match="no such file"):
        list_files(str(tree / "_tmp*" / "*.tar"))


def test_a_name_with_glob_characters_is_itself(tree):
    write_tar(tree / "x[1].tar", [])
    assert names(tree / "x[1].tar") == ["x[1].tar"]


def test_relative_paths_become_absolute(tree, monkeypatch):
    monkeypatch.chdir(tree)
    source = open_source(SourceConfig("sub"))
    monkeypatch.chdir("/")
    assert [shard.uri for shard in source.shards()] == [str(tree / "sub" / "c.tar")]


def test_a_path_with_dots_means_what_the_shell_means(tree, monkeypatch):
    monkeypatch.chdir(tree / "sub")
    assert [shard.uri for shard in open_source(SourceConfig("../sub/../a.tar")).shards()] == [str(tree / "a.tar")]


def test_a_change_of_content_changes_the_version(tree):
    before = list_files(str(tree / "a.tar"))[0]
    os.utime(tree / "a.tar", (1, 1))
    assert list_files(str(tree / "a.tar"))[0].version != before.version


@pytest.mark.parametrize(
    "uri", ["nowhere", "nowhere/*.tar", "nosuchscheme://x/y.tar", "s3:/", "memory://nothing/here", "a\0b"]
)
def test_what_cannot_be_found_is_an_error_that_names_it(uri):
    with pytest.raises(RaylabError, match=r"nowhere|nosuchscheme|s3:/|memory|a"):
        open_source(SourceConfig(uri)).shards()


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(RaylabError, match="no such file, or a folder or glob without files"):
        open_source(SourceConfig(str(tmp_path))).shards()


def test_a_file_name_that_is_not_utf8_is_an_error(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.tar")).write_bytes(b"")
    with pytest.raises(RaylabError, match="Rename the file"):
        list_files(str(tmp_path))


# ---- formats in one folder


def test_files_of_several_formats_are_an_error(tmp_path):
    write_tar(tmp_path / "a.tar", [])
    write_jsonl(tmp_path / "t.jsonl", [])
    with pytest.raises(RaylabError, match=r"1 of WebDataset tars, 1 of CSV, TSV or JSON Lines.*glob"):
        open_source(SourceConfig(str(tmp_path))).shards()


def test_what_img2dataset_writes_beside_a_tar_is_left_out(tmp_path):
    write_tar(tmp_path / "00000.tar", pair_members("a", "x"))
    write_parquet(tmp_path / "00000.parquet", {"url": ["u"], "status": ["success"]})
    (tmp_path / "00000_stats.json").write_text("{}")
    assert [shard.name for shard in open_source(SourceConfig(str(tmp_path))).shards()] == ["00000.tar"]


def test_a_folder_without_pairs_is_an_error(tmp_path):
    write_images(tmp_path, 1)
    with pytest.raises(RaylabError, match=r"none of 1 files is of a kind that raylab reads \(.tar"):
        open_source(SourceConfig(str(tmp_path))).shards()


def test_a_number_sign_in_a_file_name_is_part_of_it(tmp_path):
    write_tar(tmp_path / "a#1-2.tar", pair_members("k", "x"))
    write_parquet(tmp_path / "p" / "b#1.parquet", {"image": [jpeg()], "caption": ["x"]})
    for path in (tmp_path / "a#1-2.tar", tmp_path / "p"):
        assert [row["reject_reason"] for row in read_all(open_source(SourceConfig(str(path))))] == [None]


def test_no_access_is_an_error(tmp_path, monkeypatch):
    write_parquet(tmp_path / "p.parquet", {"image": [jpeg()], "caption": ["x"]})

    def refuse(uri, **options):
        raise PermissionError(13, "Permission denied", uri)

    monkeypatch.setattr("raylab.sources.parquet.open_file", refuse)
    with pytest.raises(RaylabError, match=r"no access.*Permission denied"):
        open_source(SourceConfig(str(tmp_path))).shards()


# ---- ranges

DATA = bytes(range(256)) * 3 * 2**12


@pytest.fixture
def reads(monkeypatch):
    """The (start, end) of every read of the file ``memory:///ranges/f``, whose bytes are `DATA`."""
    spans: list[tuple[int, int]] = []
    cat_file = MemoryFileSystem.cat_file

    def counted(self, path, start=None, end=None, **kwargs):
        spans.append((start, end))
        return cat_file(self, path, start, end, **kwargs)

    fsspec.filesystem("memory").pipe_file("/ranges/f", DATA)
    monkeypatch.setattr(MemoryFileSystem, "cat_file", counted)
    yield spans
    fsspec.filesystem("memory").rm("/ranges", recursive=True)


def test_near_ranges_are_read_together(reads):
    far = 2 * 2**20
    wanted = [(far, far + 10), (0, 5), (500_000, 500_007), (3, 9)]
    assert read_ranges([("memory:///ranges/f", *span) for span in wanted]) == [DATA[a:b] for a, b in wanted]
    assert sorted(reads) == [(0, 500_007), (far, far + 10)]


def test_joined_reads_stay_below_the_cap(reads, monkeypatch):
    monkeypatch.setattr(filesystem, "MAX_READ", 1000)
    spans = [(start, start + 300) for start in range(0, 3000, 300)]
    assert read_ranges([("memory:///ranges/f", *span) for span in spans]) == [DATA[a:b] for a, b in spans]
    assert sorted(reads) == [(0, 900), (900, 1800), (1800, 2700), (2700, 3000)]


def test_one_missing_file_does_not_hurt_the_others(tmp_path):
    (tmp_path / "a").write_bytes(b"0123456789")
    results = read_ranges([(str(tmp_path / "a"), 2, 4), (str(tmp_path / "b"), 0, 4), (str(tmp_path / "a"), 8, 99)])
    assert (results[0], type(results[1]), results[2]) == (b"23", FileNotFoundError, b"89")


def test_the_byte_cap_holds_before_reading(tmp_path):
    (tmp_path / "a.jpg").write_bytes(bytes(2000))
    limits = SourceConfig().limits.__class__(max_image_bytes=1000)
    source = open_source(SourceConfig(str(tmp_path), limits=limits))
    refs = [{"uri": str(tmp_path / "a.jpg"), "offset": 0, "size": size} for size in (-1, 1500, 0, 1000)]
    results = source.image_bytes([*refs, None, {"uri": str(tmp_path), "offset": 0, "size": -1}])
    assert results == [
        *[Reason.IMAGE_TOO_MANY_BYTES, Reason.IMAGE_TOO_MANY_BYTES, Reason.IMAGE_EMPTY, bytes(1000)],
        *[Reason.MISSING_IMAGE, Reason.IMAGE_UNREADABLE],
    ]


def test_a_range_that_the_file_does_not_hold_is_unreadable(tmp_path):
    (tmp_path / "a.tar").write_bytes(bytes(100))
    ref = {"uri": str(tmp_path / "a.tar"), "offset": 50, "size": 100}
    assert open_source(SourceConfig(str(tmp_path))).image_bytes([ref]) == [Reason.IMAGE_UNREADABLE]


def test_an_error_that_is_not_the_files_is_raised(monkeypatch):
    monkeypatch.setattr("raylab.sources.files.read_ranges", lambda ranges: [RuntimeError("no credentials")])
    with pytest.raises(RuntimeError, match="no credentials"):
        open_source(SourceConfig("/x")).image_bytes([{"uri": "/x/a.jpg", "offset": 0, "size": -1}])


# ---- paths in tables

PARTS = st.lists(st.sampled_from(["a", "..", ".", "", "b", "data", "tables"]), min_size=1, max_size=8).map("/".join)


@given(path=PARTS, absolute=st.booleans())
def test_no_path_leads_out_of_the_root(path, absolute):
    found = resolve_inside(("/" if absolute else "") + path, "/data/tables/t.csv", "/data/tables/")
    if found is not None:
        assert os.path.realpath(found).startswith("/data/tables/")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("i/x.jpg", "s3://bucket/data/t/i/x.jpg"),
        ("../x.jpg", "s3://bucket/data/x.jpg"),
        ("../../x.jpg", None),
        ("s3://bucket/data/x.jpg", "s3://bucket/data/x.jpg"),
        ("s3://other/data/x.jpg", None),
        ("s3://bucket/data-2/x.jpg", None),
        ("file:///etc/passwd", None),
        ("/etc/passwd", None),
    ],
)
def test_paths_in_a_bucket(path, expected):
    assert resolve_inside(path, "s3://bucket/data/t/t.csv", "s3://bucket/data/") == expected


# ---- other filesystems


def fill(root: str) -> None:
    """Write a tar, a Parquet file and a table with its image below `root`."""
    target, path = fsspec.core.url_to_fs(root)
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder)
        write_tar(local / "tars" / "a.tar", pair_members("k", "x", 5))
        write_parquet(local / "parquet" / "a.parquet", {"image": [jpeg(5)], "caption": ["x"], "key": ["k"]})
        write_images(local / "table", 6)
        write_jsonl(local / "table" / "t.jsonl", [{"image": "images/005.jpg", "caption": "x", "key": "k"}])
        target.put(folder + "/", path, recursive=True)


def all_formats_read(root: str) -> None:
    for folder in ("tars", "parquet", "table/*.jsonl"):
        source = open_source(SourceConfig(f"{root}/{folder}", Columns()))
        rows = read_all(source)
        assert reasons(rows) == {"k": None}
        assert source.image_bytes([row["image"] for row in rows]) == [jpeg(5)]
        assert all(shard.version for shard in source.shards())


def test_a_filesystem_of_fsspec():
    root = f"memory://{uuid.uuid4().hex}"
    fill(root)
    all_formats_read(root)
    fsspec.filesystem("memory").rm(root, recursive=True)


@pytest.fixture
def s3(monkeypatch):
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    yield f"{host}:{port}"
    server.stop()


def test_a_bucket_through_s3fs_and_through_pyarrow(s3, monkeypatch):
    s3fs = pytest.importorskip("s3fs")
    s3fs.S3FileSystem.clear_instance_cache()
    filesystem._folder.cache_clear()
    s3fs.S3FileSystem().mkdir("bucket")
    fill("s3://bucket/data")
    all_formats_read("s3://bucket/data")

    def not_installed(uri, **kwargs):
        raise ImportError("Install s3fs to access S3")

    filesystem._folder.cache_clear()
    monkeypatch.setattr(fsspec.core, "url_to_fs", not_installed)
    all_formats_read("s3://bucket/data")
    filesystem._folder.cache_clear()
    s3fs.S3FileSystem.clear_instance_cache()

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import uuid

import pyarrow as pa
import pytest

from raylab.errors import RaylabError
from raylab.storage import Folder, check_listed, check_seen, is_one_hosts, refuse_local


@pytest.fixture(params=["local", "memory"])
def folder(request, tmp_path):
    return Folder(str(tmp_path / "run") if request.param == "local" else f"memory://{uuid.uuid4().hex}")


def test_what_is_written_is_read(folder):
    table = pa.table({"a": [1, 2], "b": ["x", None]})
    folder.write_json("a/b.json", {"x": [1, "é"]})
    folder.write_parquet("t.parquet", table)
    assert folder.read_json("a/b.json") == {"x": [1, "é"]}
    assert folder.read_parquet("t.parquet").equals(table)
    assert folder.read_parquet("t.parquet", ["b"]).column_names == ["b"]
    assert folder.names("a") == ["a/b.json"]
    assert folder.names("nowhere") == []


def test_it_can_be_removed_and_pickled(folder):
    folder.write_bytes("x/y", b"1")
    again = pickle.loads(pickle.dumps(folder))
    again.remove("x")
    again.remove("x")
    assert not folder.exists("x/y")


def test_a_damaged_json_file_is_named(folder):
    folder.write_bytes("x.json", b"{")
    with pytest.raises(RaylabError, match=r"x\.json is damaged"):
        folder.read_json("x.json")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    folder = Folder(str(tmp_path))
    folder.write_bytes("x", b"old")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RaylabError, match=r"Cannot write .*/x: No space left on device"):
        folder.write_bytes("x", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert folder.read_bytes("x") == b"old"


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="mounting a small disk needs root")
def test_a_disk_that_is_really_full(tmp_path):
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", tmp_path], check=False).returncode:
        pytest.skip("this machine does not let a test mount a small disk")
    try:
        folder = Folder(str(tmp_path))
        folder.write_bytes("first", b"1" * 40_000)
        with pytest.raises(RaylabError, match="No space left"):
            folder.write_bytes("second", b"2" * 40_000)
        assert [path.name for path in tmp_path.iterdir()] == ["first"]
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_an_unknown_filesystem_is_an_error():
    with pytest.raises(RaylabError, match="nosuch://x"):
        Folder("nosuch://x").exists("a")


def test_what_another_process_wrote_is_seen_whatever_was_listed_before(bucket):
    import s3fs

    folder = Folder(f"{bucket}/run")
    folder.write_bytes("a/1", b"1")
    assert not folder.exists("a/2")
    assert folder.names("a") == ["a/1"]
    other = s3fs.S3FileSystem(skip_instance_cache=True)
    other.pipe_file(f"{bucket}/run/a/2", b"2")
    assert folder.exists("a/2")
    assert folder.names("a") == ["a/1", "a/2"]


def test_a_file_is_copied_into_the_folder(folder, tmp_path):
    (tmp_path / "x").write_bytes(b"123")
    folder.put(tmp_path / "x", "below/y")
    assert folder.read_bytes("below/y") == b"123"


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("/data/run", True),
        ("runs/x", True),
        ("file:///data/run", True),
        ("", False),
        ("s3://bucket/run", False),
        ("gs://bucket/run", False),
        ("miniworld://?rows=5&seed=1", False),
        ("package://raylab.sources/x", False),
    ],
)
def test_what_lies_on_one_hosts_disk(address, local):
    assert is_one_hosts(address) is local


def test_local_paths_on_a_cluster_of_several_nodes_are_refused():
    places = {"--out": "/data/run", "--source": "s3://bucket/pairs", "--kb": "kb", "--init": ""}
    refuse_local(places, nodes=1, shared_disk=False)
    refuse_local(places, nodes=3, shared_disk=True)
    refuse_local({"--out": "s3://bucket/run"}, nodes=3, shared_disk=False)
    with pytest.raises(RaylabError) as refused:
        refuse_local(places, nodes=3, shared_disk=False)
    assert "3 nodes" in str(refused.value)
    with pytest.raises(RaylabError, match="starts more nodes for the work, and each would look on its own disk"):
        refuse_local(places, nodes=1, shared_disk=False, elsewhere=True)
    refuse_local(places, nodes=1, shared_disk=True, elsewhere=True)
    assert "for --out /data/run, --kb kb." in str(refused.value)
    assert "s3://bucket/..." in str(refused.value) and "--shared-disk" in str(refused.value)


def test_a_host_that_does_not_see_what_the_driver_wrote(folder):
    folder.write_bytes("run.json", b"{}")
    check_seen(folder, "run.json", "node-1")
    folder.remove("run.json")
    if folder.is_local:
        with pytest.raises(RaylabError, match=r"Node node-1 does not see .*run/run.json"):
            check_seen(folder, "run.json", "node-1")
    else:
        check_seen(folder, "run.json", "node-1")  # a bucket is the same for all: its own errors say more


def test_a_listed_file_that_a_host_does_not_see_is_no_bad_file(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"a")
    addresses = ["s3://bucket/b.tar", "miniworld://?rows=5&seed=1", str(tmp_path / "a.tar"), f"file://{tmp_path}/a.tar"]
    check_listed(addresses, "here")
    for gone in (str(tmp_path / "c.tar"), f"file://{tmp_path}/c.tar"):
        with pytest.raises(RaylabError, match=r"Node here does not see .*c\.tar, which the driver listed"):
            check_listed([*addresses, gone], "here")

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import uuid

import pyarrow as pa
import pytest

from raylab.errors import RaylabError
from raylab.storage import Folder


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

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from raylab.errors import RaylabError
from raylab.mirror import local_copy


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    uri = f"memory://{uuid.uuid4().hex}/kb"
    fsspec.filesystem("memory").pipe({f"{uri}/kb.json": b"{}", f"{uri}/ids/a.npy": b"123"})
    yield uri
    fsspec.filesystem("memory").rm(uri, recursive=True)


def test_it_is_fetched_once_and_again_when_it_changes(folder: str) -> None:
    copy = local_copy(folder)
    assert copy.name == "kb"
    assert {path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()} == {"kb.json", "ids/a.npy"}
    (copy / "ids" / "a.npy").write_bytes(b"mine")
    assert local_copy(f"{folder}/") == copy
    assert (copy / "ids" / "a.npy").read_bytes() == b"mine", "it was not fetched again"
    fsspec.filesystem("memory").pipe_file(f"{folder}/ids/a.npy", b"1234")
    assert (local_copy(folder) / "ids" / "a.npy").read_bytes() == b"1234"


def test_who_comes_at_once_waits_and_a_fetch_that_was_killed_is_begun_again(folder: str, monkeypatch) -> None:
    fetches = []
    get = MemoryFileSystem.get

    def slow(self, *args, **kwargs):
        fetches.append(args)
        return get(self, *args, **kwargs)

    monkeypatch.setattr(MemoryFileSystem, "get", slow)
    copies: list[Path] = []
    threads = [threading.Thread(target=lambda: copies.append(local_copy(folder))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fetches) == 1 and len(set(copies)) == 1

    copy = copies[0]
    copy.rename(copy.with_name("kb.part"))  # as a kill leaves it
    (copy.with_name("kb.part") / "stray").write_bytes(b"")
    assert not (local_copy(folder) / "stray").exists()


def test_nothing_there_and_no_room(folder: str, monkeypatch) -> None:
    with pytest.raises(RaylabError, match="no such file"):
        local_copy("memory://nowhere/kb")

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(MemoryFileSystem, "get", full)
    with pytest.raises(RaylabError, match=r"No space left.*XDG_CACHE_HOME"):
        local_copy(folder)

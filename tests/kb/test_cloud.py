"""A knowledge base whose folder is an address."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from kb.small_catalogue import write_rows

from raylab.errors import RaylabError
from raylab.kb.build import BuildConfig, build
from raylab.kb.catalog import Catalog


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    name = uuid.uuid4().hex
    yield f"memory://{name}/kb"
    fsspec.filesystem("memory").rm(f"/{name}", recursive=True)


def make(tmp_path: Path, out: str, *titles: str) -> None:
    rows = [{"id": f"Q{number}", "title": title} for number, title in enumerate(titles)]
    build(BuildConfig(out, (write_rows(tmp_path / "rows.jsonl", rows),), context=False, workers=1))


def test_it_is_built_and_replaced_there_and_opened_from_there(tmp_path: Path, address: str) -> None:
    make(tmp_path, address, "One", "Two")
    fsspec.filesystem("memory").pipe_file(f"{address}/vectors/old", b"of the old one")
    assert sorted(Catalog.open(address).titles.to_pylist()) == ["One", "Two"]
    make(tmp_path, address, "Three")
    catalog = Catalog.open(address)
    assert catalog.titles.to_pylist() == ["Three"]
    assert catalog.path.is_relative_to(tmp_path / "cache")
    assert not (catalog.path / "vectors").exists()
    make(tmp_path, str(tmp_path / "kb"), "Three")
    assert catalog.info.fingerprint == Catalog.open(tmp_path / "kb").info.fingerprint


def test_something_else_there_is_not_overwritten(tmp_path: Path, address: str) -> None:
    fsspec.filesystem("memory").pipe_file(f"{address}/precious", b"1")
    with pytest.raises(RaylabError, match="is there and is no knowledge base"):
        make(tmp_path, address, "One")
    assert fsspec.filesystem("memory").cat_file(f"{address}/precious") == b"1"
    with pytest.raises(RaylabError, match=r"is no knowledge base \(kb.json is missing\)"):
        Catalog.open(address)

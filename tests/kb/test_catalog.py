from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from raylab.errors import RaylabError
from raylab.kb.catalog import Catalog
from raylab.schema import SCHEMA_VERSION


@pytest.fixture
def copy(kb: Catalog, tmp_path: Path) -> Path:
    """A copy of the knowledge base that a test may spoil."""
    return Path(shutil.copytree(kb.path, tmp_path / "copy"))


def test_rows_and_texts(kb: Catalog) -> None:
    rows = kb.rows(["Q2", "nobody", "Q5", "Q2"])
    assert rows[1] == -1
    assert kb.ids.take(pa.array(rows[[0, 2, 3]])).to_pylist() == ["Q2", "Q5", "Q2"]
    assert kb.texts(rows[[0, 2]]) == ["Paris, Texas: city in Texas", "human"]
    assert kb.texts(np.zeros(0, np.int64)) == []
    assert kb.rows([]).tolist() == []
    assert kb.rows(pa.chunked_array([["Q1"], ["Q2"]])).min() >= 0


def test_columns_line_up(kb: Catalog) -> None:
    assert len(kb) == len(kb.ids) == len(kb.titles) == len(kb.descriptions) == len(kb.types) == len(kb.popularity)
    at = int(kb.rows(["Q3"])[0])
    assert kb.titles[at].as_py() == "Barack Obama"
    assert kb.types[at].as_py() == ["Q5"]
    assert kb.popularity[at] == 50
    assert kb.rows(kb.ids).tolist() == list(range(len(kb)))


def test_info_tells_what_it_is(kb: Catalog) -> None:
    assert kb.info.schema_version == SCHEMA_VERSION
    assert kb.info.entities == 17
    assert len(kb.info.fingerprint) == 32
    assert kb.info.aliases == len(kb.aliases)
    assert kb.info.sources[0]["lines"] == 17


def test_no_knowledge_base(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(RaylabError, match=r"is no knowledge base .*jobs/build_kb.py"):
            Catalog.open(folder)


def test_another_schema_version(copy: Path) -> None:
    info = json.loads((copy / "kb.json").read_text())
    (copy / "kb.json").write_text(json.dumps(info | {"schema_version": 99}))
    with pytest.raises(RaylabError, match=f"version 99, this raylab reads version {SCHEMA_VERSION}"):
        Catalog.open(copy)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema_version": 1}', '"x"'])
def test_a_damaged_info_file(copy: Path, text: str) -> None:
    (copy / "kb.json").write_text(text)
    with pytest.raises(RaylabError, match=r"damaged|schema version None"):
        Catalog.open(copy)


@pytest.mark.parametrize(
    "name", ["entities.arrow", "names.arrow", "aliases/keys.npy", "ids/buckets.npy", "popularity.npy"]
)
def test_a_missing_or_cut_file(copy: Path, name: str) -> None:
    whole = (copy / name).read_bytes()
    (copy / name).write_bytes(whole[:-9])
    with pytest.raises(RaylabError, match=rf"{Path(name).name} has .* bytes instead of .*damaged"):
        Catalog.open(copy)
    (copy / name).unlink()
    with pytest.raises(RaylabError, match=f"{Path(name).name} is missing"):
        Catalog.open(copy)


def test_a_knowledge_base_from_before_there_were_edges(copy: Path) -> None:
    info = json.loads((copy / "kb.json").read_text())
    (copy / "kb.json").write_text(json.dumps({k: v for k, v in info.items() if not k.startswith("edges")}))
    catalog = Catalog.open(copy)
    assert len(catalog) == 17
    with pytest.raises(RaylabError, match="keeps no 'subclass of' pairs: build it again with --type-edges"):
        _ = catalog.edges


def test_a_file_of_the_right_size_and_the_wrong_content(copy: Path) -> None:
    size = (copy / "entities.arrow").stat().st_size
    (copy / "entities.arrow").write_bytes(bytes(size))
    with pytest.raises(RaylabError, match="is damaged"):
        Catalog.open(copy)


READ_AND_REPORT = """
import sys
import pyarrow as pa
from raylab.kb.catalog import Catalog
catalog = Catalog.open(sys.argv[1])
matches = catalog.aliases.match(pa.array(["Obama in Paris"] * 100))
catalog.aliases.candidates(matches.alias), catalog.texts(catalog.rows(["Q1", "Q3"]))
own = counted = 0
for line in open("/proc/self/smaps"):
    if "-" in line.split(" ")[0]:
        inside = sys.argv[1] in line
    elif inside and line.startswith(("Anonymous:", "Swap:")):
        own += int(line.split()[1])
    elif inside and line.startswith("Rss:"):
        counted += int(line.split()[1])
heavy = {"torch", "ray", "spacy", "sklearn", "scipy", "open_clip"} & set(sys.modules)
print(own, counted, len(matches.row), *heavy)
"""


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's /proc/self/smaps")
def test_processes_share_one_mapping_and_load_nothing_heavy(kb: Catalog) -> None:
    for _ in range(2):
        command = [sys.executable, "-c", READ_AND_REPORT, str(kb.path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        own, mapped, matches, *heavy = done.stdout.split()
        assert int(own) == 0
        assert int(mapped) > 0
        assert int(matches) == 200
        assert heavy == []

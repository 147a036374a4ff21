"""What every source does, whatever it reads."""

from __future__ import annotations

import pickle
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest
from sources.oven_folder import write_oven
from sources.source_files import jpeg, pair_members, write_csv, write_images, write_jsonl, write_parquet, write_tar

from raylab.schema import PAIR, Reason, row_id
from raylab.sources import Columns, SourceConfig, open_source
from raylab.sources.images import open_image

ROWS = 23


@dataclass(frozen=True)
class Case:
    make: Callable[[Path], None]
    """Writes the input below a folder."""
    uri: str = ""
    """Below that folder, or an address of its own, in which ``{folder}`` stands for it."""
    columns: Columns = field(default_factory=Columns)


def tars(folder: Path) -> None:
    for part in range(2):
        members = [member for row in range(ROWS) for member in pair_members(f"{row:05d}", f"caption {row}", row)]
        write_tar(folder / f"part-{part}.tar", members)


def parquet_bytes(folder: Path) -> None:
    columns = {"image": [jpeg(row) for row in range(ROWS)], "caption": [f"caption {row}" for row in range(ROWS)]}
    for part in range(2):
        write_parquet(folder / f"part-{part}.parquet", columns, row_group_size=7)


def parquet_structs(folder: Path) -> None:
    images = [{"bytes": jpeg(row), "path": f"{row}.jpg"} for row in range(ROWS)]
    write_parquet(folder / "a.parquet", {"img": images, "alt": ["x"] * ROWS, "id": list(range(ROWS))})


def parquet_paths(folder: Path) -> None:
    write_parquet(folder / "a.parquet", {"image": write_images(folder, ROWS), "caption": ["x"] * ROWS})


def json_lines(folder: Path) -> None:
    rows = [{"file": name, "name": f"caption {row}"} for row, name in enumerate(write_images(folder, ROWS))]
    write_jsonl(folder / "metadata.jsonl", rows)


def csv_table(folder: Path) -> None:
    rows = [(name, f"caption, {row}") for row, name in enumerate(write_images(folder, ROWS))]
    write_csv(folder / "a.csv", ["image", "caption"], rows)
    write_csv(folder / "b.tsv", ["image", "caption"], rows, "\t")


CASES = {
    "webdataset": Case(tars),
    "parquet bytes": Case(parquet_bytes),
    "parquet structs": Case(parquet_structs, "*.parquet", Columns(image="img", caption="alt", key="id")),
    "parquet paths": Case(parquet_paths, "a.parquet"),
    "json lines": Case(json_lines, "metadata.jsonl", Columns(image="file", caption="name")),
    "csv and tsv": Case(csv_table),
    "miniworld": Case(lambda folder: None, "miniworld://?rows=530&seed=3"),
    "oven": Case(partial(write_oven, rows=40), "oven://{folder}"),
    "oven of the mini-world": Case(lambda folder: None, "oven://miniworld://?rows=530&seed=3"),
}


@pytest.fixture(scope="module", params=CASES)
def place(request, tmp_path_factory) -> tuple[SourceConfig, Path]:
    """The config of a source, and the folder that its files lie in."""
    case, folder = CASES[request.param], tmp_path_factory.mktemp("source") / "input"
    folder.mkdir()
    case.make(folder)
    uri = case.uri.replace("{folder}", str(folder)) if "://" in case.uri else str(folder / case.uri)
    return SourceConfig(uri, case.columns, chunk_rows=10), folder


@pytest.fixture(scope="module")
def tables(place):
    source = open_source(place[0])
    return {shard: list(source.read(shard)) for shard in source.shards()}


@pytest.fixture(scope="module")
def rows(tables):
    return [row for pieces in tables.values() for table in pieces for row in table.to_pylist()]


def test_shards_are_listed_in_a_fixed_order_with_names_of_their_own(place):
    first, again = open_source(place[0]).shards(), open_source(place[0]).shards()
    assert first == again
    assert len({shard.name for shard in first}) == len(first) > 0
    assert all(shard.version and shard.size > 0 for shard in first)


def test_tables_are_pairs_of_the_size_asked_for(tables):
    for shard, pieces in tables.items():
        assert [table.schema.equals(PAIR, check_metadata=True) for table in pieces] == [True] * len(pieces)
        assert all(0 < table.num_rows <= 10 for table in pieces)
        assert {name for table in pieces for name in table["shard"].to_pylist()} == {shard.name}


def test_rows_are_sound_and_their_ids_are_their_own(rows):
    assert len({row["row_id"] for row in rows}) == len(rows) >= ROWS
    for row in rows:
        assert row["row_id"] == row_id(row["shard"], row["key"])
        assert row["reject_reason"] is None or Reason(row["reject_reason"])


def test_reading_again_gives_the_same(place, tables):
    source = open_source(place[0])
    assert {shard: list(source.read(shard)) for shard in source.shards()} == tables


def test_the_chunk_size_changes_nothing_else(place, tables):
    source = open_source(replace(place[0], chunk_rows=1000))
    for shard, pieces in tables.items():
        whole = list(source.read(shard))
        assert len(whole) == 1
        assert whole[0].to_pylist() == [row for table in pieces for row in table.to_pylist()]


def test_a_pickled_source_reads_the_same(place, tables):
    source = open_source(place[0])
    shard = source.shards()[0]
    source.image_bytes(next(iter(source.read(shard)))["image"].to_pylist()[:2])  # now it may hold open files
    again = pickle.loads(pickle.dumps(source))
    assert list(again.read(shard)) == tables[shard]


def test_images_open(place, rows):
    wanted = [row for row in rows if row["reject_reason"] is None]
    found = open_source(place[0]).image_bytes([row["image"] for row in wanted[:50]])
    assert len(found) == min(50, len(wanted)) > 0
    for data in found:
        assert min(open_image(data, place[0].limits, 16).size) >= 16


def test_images_can_be_asked_for_in_any_order(place, rows):
    refs = [row["image"] for row in rows if row["reject_reason"] is None][:12]
    source = open_source(place[0])
    in_order = source.image_bytes(refs)
    assert source.image_bytes(refs[::-1]) == in_order[::-1]
    assert source.image_bytes([refs[3], refs[3]]) == [in_order[3]] * 2
    assert source.image_bytes([]) == []


def test_a_row_without_an_image_gives_a_reason(place, rows):
    nowhere = {"uri": None, "offset": None, "size": None}
    assert open_source(place[0]).image_bytes([nowhere]) == [Reason.MISSING_IMAGE]


def test_moving_the_input_keeps_the_row_ids(place, rows, tmp_path):
    config, folder = place
    moved = tmp_path / "elsewhere"
    shutil.copytree(folder, moved)
    source = open_source(replace(config, uri=config.uri.replace(str(folder), str(moved))))
    found = [row for shard in source.shards() for table in source.read(shard) for row in table.to_pylist()]
    assert [row["row_id"] for row in found] == [row["row_id"] for row in rows]


def test_a_source_opens_nothing_before_it_is_asked(place, tmp_path):
    config = place[0]
    if "://" not in config.uri:
        config = replace(config, uri=str(tmp_path / "not there" / "*.tar"))
    assert pickle.loads(pickle.dumps(open_source(config)))


def test_sources_load_no_heavy_module():
    import subprocess

    code = (
        "import sys, raylab.sources.files, raylab.sources.images\n"
        "print([name for name in ('torch', 'ray', 'pandas', 'spacy', 's3fs', 'sklearn') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

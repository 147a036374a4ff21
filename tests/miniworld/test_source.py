from __future__ import annotations

import io
import pickle

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from raylab.errors import RaylabError
from raylab.schema import ENTITY, PAIR, Reason
from raylab.sources.base import Limits, Shard, SourceConfig
from raylab.sources.miniworld.catalogue import kb_rows
from raylab.sources.miniworld.entities import BY_ID
from raylab.sources.miniworld.samples import picture, sample
from raylab.sources.miniworld.source import MiniworldSource, parse_uri, world_version


def open_world(uri: str = "miniworld://?rows=1100&seed=7", **options) -> MiniworldSource:
    return MiniworldSource(SourceConfig(uri, **options))


def read_all(source: MiniworldSource) -> pa.Table:
    return pa.concat_tables(table for shard in source.shards() for table in source.read(shard))


@pytest.mark.parametrize(
    ("uri", "rows", "seed"),
    [
        ("miniworld://", 2000, 7),
        ("miniworld://?rows=10", 10, 7),
        ("miniworld://?seed=0&rows=1", 1, 0),
        ("miniworld:///?seed=3", 2000, 3),
    ],
)
def test_addresses(uri, rows, seed):
    assert parse_uri(uri) == {"rows": rows, "seed": seed}


@pytest.mark.parametrize(
    ("uri", "named"),
    [
        ("miniworld://?row=5", "Did you mean 'rows'"),
        ("miniworld://?rows=5&colour=red", "'colour'"),
        ("miniworld://?rows=0", "rows='0'"),
        ("miniworld://?rows=-1", "rows='-1'"),
        ("miniworld://?rows=ten", "rows='ten'"),
        ("miniworld://?rows=", "rows=''"),
        ("miniworld://?rows=²", "rows='²'"),
        pytest.param("miniworld://?rows=" + "9" * 5000, "rows=", id="5000 digits"),
        ("miniworld://?seed=1.5", "seed='1.5'"),
        ("miniworld://?seed=99999999999", "seed='99999999999'"),
        ("miniworld://?seed=1&seed=2", "twice"),
        ("miniworld://europe?seed=1", "no mini-world address"),
        ("file:///data", "no mini-world address"),
    ],
)
def test_a_bad_address_is_one_clear_error(uri, named):
    with pytest.raises(RaylabError) as error:
        open_world(uri)
    assert named in str(error.value)
    assert uri in str(error.value)


def test_shards_cover_the_rows_in_order():
    shards = open_world().shards()
    assert [shard.name for shard in shards] == ["seed7-000000-000500", "seed7-000500-001000", "seed7-001000-001100"]
    assert [shard.size for shard in shards] == [500, 500, 100]
    assert {shard.version for shard in shards} == {world_version()}


def test_rows_are_complete_pairs_with_truth():
    table = read_all(open_world())
    assert table.schema.equals(PAIR, check_metadata=True)
    assert table.num_rows == 1100
    assert len(set(table["row_id"].to_pylist())) == 1100
    assert set(table["licence"].to_pylist()) == {"CC0-1.0"}
    truths = table["truth"].to_pylist()
    assert {len(truth) for truth in truths} == {0, 1, 2}
    assert all(BY_ID[entity_id].pictured for truth in truths for entity_id in truth)
    for index in (0, 499, 500, 1099):
        expected = sample(7, index)
        row = table.slice(index, 1).to_pylist()[0]
        assert row["truth"] == list(expected.entity_ids)
        assert row["caption"] == expected.caption.text
        assert row["image"] == {"uri": "miniworld://?seed=7", "offset": index, "size": -1}


def test_shares_of_pictures_without_and_with_two_entities():
    truths = read_all(open_world("miniworld://?rows=4000&seed=8"))["truth"].to_pylist()
    assert 0.02 < sum(not truth for truth in truths) / 4000 < 0.04
    assert 0.15 < sum(len(truth) == 2 for truth in truths) / 4000 < 0.25


def test_every_pictured_entity_is_met_five_times_in_a_small_world():
    truths = read_all(open_world("miniworld://?rows=2000&seed=7"))["truth"].to_pylist()
    counts = {entity_id: 0 for entity_id, entity in BY_ID.items() if entity.pictured}
    for truth in truths:
        for entity_id in truth:
            counts[entity_id] += 1
    assert min(counts.values()) >= 1
    assert sum(count < 5 for count in counts.values()) < len(counts) / 10


def test_empty_captions_leave_with_a_reason():
    table = read_all(open_world())
    for row in table.select(["caption", "reject_step", "reject_reason"]).to_pylist():
        refused = not row["caption"].strip()
        assert row["reject_reason"] == (Reason.EMPTY_CAPTION if refused else None)
        assert row["reject_step"] == ("source" if refused else None)
    assert table["reject_reason"].null_count < table.num_rows


@pytest.mark.parametrize("chunk_rows", [1, 37, 512, 5000])
def test_chunks_hold_the_same_rows(chunk_rows):
    source = open_world("miniworld://?rows=120&seed=7", chunk_rows=chunk_rows)
    tables = list(source.read(source.shards()[0]))
    assert max(table.num_rows for table in tables) == min(chunk_rows, 120)
    assert pa.concat_tables(tables).equals(read_all(open_world("miniworld://?rows=120&seed=7")))


def test_limits_hold_here_too():
    table = read_all(open_world(limits=Limits(max_caption_chars=20)))
    assert Reason.CAPTION_TOO_LONG in table["reject_reason"].to_pylist()


def test_a_longer_world_starts_with_the_same_rows():
    short, long = (read_all(open_world(f"miniworld://?rows={rows}&seed=9")) for rows in (500, 1500))
    assert long.slice(0, 500).equals(short)


def test_images_are_drawn_on_demand_and_the_same_each_time():
    source = pickle.loads(pickle.dumps(open_world("miniworld://?rows=20&seed=7")))
    refs = next(source.read(source.shards()[0]))["image"].to_pylist()
    first, again = source.image_bytes(refs), source.image_bytes(refs[::-1])[::-1]
    assert first == again
    assert all(data.startswith(b"\xff\xd8") for data in first)
    shown = np.asarray(Image.open(io.BytesIO(first[3])).convert("RGB"), float)
    assert np.abs(shown - np.asarray(picture(sample(7, 3)), float)).mean() < 12


def test_a_reference_that_leads_elsewhere_has_a_reason():
    refs = [
        {"uri": "part-0.tar", "offset": 512, "size": 9},
        {"uri": None, "offset": None, "size": None},
        {"uri": "miniworld://?seed=7", "offset": -1, "size": -1},
        {"uri": "miniworld://?seed=7", "offset": 0, "size": -1},
    ]
    *missing, found = open_world().image_bytes(refs)
    assert missing == [Reason.MISSING_IMAGE] * 3
    assert isinstance(found, bytes)


def test_reading_paints_nothing(monkeypatch):
    def painted(*_):
        raise AssertionError("a picture was painted while rows were read")

    monkeypatch.setattr("raylab.sources.miniworld.scene.render", painted)
    assert read_all(open_world("miniworld://?rows=50&seed=7")).num_rows == 50


def test_a_shard_is_read_by_its_name_alone():
    shard = Shard("seed7-000500-000510", "miniworld://?seed=7", "any", 10)
    (table,) = open_world().read(shard)
    assert table["key"].to_pylist()[0] == "000000500"
    assert table.num_rows == 10


def test_the_catalogue_holds_what_is_pictured_and_what_shares_its_names():
    rows = kb_rows()
    table = pa.Table.from_pylist(rows, schema=ENTITY)
    assert table.num_rows == len(set(table["id"].to_pylist())) == len(BY_ID)
    assert {row["id"] for row in rows} >= {entity_id for entity_id, entity in BY_ID.items() if not entity.pictured}

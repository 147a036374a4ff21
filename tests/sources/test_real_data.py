"""Real pairs through the sources; skipped where ../shared/data is absent."""

from __future__ import annotations

import pytest
from sources.source_files import read_all

from raylab.sources import Columns, SourceConfig, open_source
from raylab.sources.images import open_image


@pytest.mark.parametrize(
    ("uri", "columns", "count"),
    [
        ("cc12m_32", Columns(), 32),
        ("senators_100", Columns(image="file"), 100),
        ("imagenet_sample_1000", Columns(image="file", caption="name", key="wnid"), 999),
        (
            "coco_captions_100",
            Columns(image="file", caption="captions", licence="image_licence", url="flickr_url"),
            500,
        ),
        ("grocery_81/val.parquet", Columns(caption="name"), 296),
        ("tiny_imagenet_200/train-00.parquet", Columns(caption="name", key="id"), 10_000),
    ],
)
def test_every_pair_is_sound_and_its_image_opens(shared_data, uri, columns, count):
    source = open_source(SourceConfig(str(shared_data / uri), columns))
    rows = read_all(source)
    assert len(rows) == count
    assert [row for row in rows if row["reject_reason"]] == []
    for start in range(0, min(count, 1000), 100):
        for data in source.image_bytes([row["image"] for row in rows[start : start + 100]]):
            assert open_image(data, source.config.limits, 64).mode == "RGB"


def test_alt_texts_without_pixels_are_read_as_captions(shared_data):
    columns = Columns(image="", caption="TEXT", url="URL")
    rows = read_all(open_source(SourceConfig(str(shared_data / "alttext_10k"), columns)))
    assert len(rows) == 10_000
    assert sum(row["reject_reason"] is None for row in rows) == 10_000
    assert all(row["image"] is None and row["url"] for row in rows)


def test_captions_of_another_tool_are_read_as_json_lines(shared_data):
    path = next((shared_data / "mel_captions").glob("*.jsonl"))
    columns = Columns(image="", key="id")
    rows = read_all(open_source(SourceConfig(str(path), columns)))
    assert len(rows) == 11_065

"""The whole job over tars as bad as the web's: every row ends somewhere, with the right reason."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sources.source_files import encoded, pair_members, picture, write_tar

from raylab.kb.build import BuildConfig, build
from raylab.label.plan import StoreConfig
from raylab.label.run import run
from raylab.label.store import LabelStore
from raylab.recipes import LABEL
from raylab.sources.base import SourceConfig

CAPTION = "Flag of France on a pole"


def bomb() -> bytes:
    """A PNG of 30,000 x 30,000 pixels in some 100 KB."""
    buffer = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(buffer, "PNG")
    return buffer.getvalue()


def image_member(key: str, data: bytes, caption: str = CAPTION) -> list[tuple[str, bytes]]:
    return [(f"{key}.jpg", data), *pair_members(key, caption)[1:]]


def bad_pairs() -> dict[str, tuple[list[tuple[str, bytes]], str | None]]:
    """Key -> its members, and the reason expected; None: the row reaches the verdict of the image."""
    sound = encoded(picture())
    deep = Image.fromarray(np.arange(48 * 48, dtype=np.uint16).reshape(48, 48))
    frames = [picture(seed=i) for i in range(3)]
    return {
        "sound": (image_member("sound", sound), None),
        "cmyk": (image_member("cmyk", encoded(picture().convert("CMYK"))), None),
        "deep": (image_member("deep", encoded(deep, "PNG")), None),
        "animated": (
            image_member("animated", encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])),
            None,
        ),
        "bomb": (image_member("bomb", bomb()), "image_too_many_pixels"),
        "zero": (image_member("zero", b""), "image_empty"),
        "cut": (image_member("cut", sound[: len(sound) // 2]), "image_corrupt"),
        "text": (image_member("text", b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "image_format"),
        "long": (image_member("long", sound, "x" * 1_000_000), "caption_too_long"),
        "nul": (image_member("nul", sound, "Flag of\0France"), "caption_not_text"),
        "latin": ([("latin.jpg", sound), ("latin.txt", b"Flag of Espa\xf1a")], "caption_not_text"),
        "none": (image_member("none", sound, "zzz qqq xxx"), "no_candidates"),
        "blank": (image_member("blank", sound, "  "), "empty_caption"),
    }


@pytest.fixture(scope="module")
def verdicts(ray_cluster, tmp_path_factory) -> dict[str, str | None]:
    folder = tmp_path_factory.mktemp("bad")
    kb = folder / "kb"
    build(BuildConfig(out=str(kb), catalogues=("miniworld://",), workers=1))
    pairs = bad_pairs()
    members = [member for one, _ in pairs.values() for member in one]
    write_tar(folder / "in" / "a.tar", members + image_member("sound", encoded(picture())))
    whole = write_tar(folder / "in" / "b.tar", [m for i in range(4) for m in pair_members(f"b{i}", CAPTION, i)])
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size * 5 // 8])
    (folder / "in" / "c.tar").write_bytes(b"")
    (folder / "in" / "d.tar").write_bytes(b"not a tar at all" * 100)
    recipe = LABEL["miniworld"]()
    source = SourceConfig(uri=str(folder / "in" / "*.tar"))
    select = dataclasses.replace(recipe.select, min_score=0.0, min_margin=0.0)
    config = dataclasses.replace(
        recipe, source=source, kb=str(kb), out=str(folder / "out"), select=select, store=StoreConfig(1, 1)
    )
    summary = run(config)
    assert summary["rows_in"] == summary["labelled"] + summary["rejected"] + summary["failed"]
    assert summary["failed"] == 0
    return _by_key(folder / "out")


def _by_key(out: Path) -> dict[str, str | None]:
    store = LabelStore(str(out))
    labels = store.labels().to_table(columns=["shard", "key"]).to_pylist()
    rejects = store.rejects().to_table(columns=["shard", "key", "reject_reason"]).to_pylist()
    found: dict[str, str | None] = {}
    for row in labels + rejects:
        name = f"{row['shard']}/{row['key']}"
        found[f"{name}#2" if name in found else name] = row.get("reject_reason")
    return found


@pytest.mark.parametrize("key", [key for key in bad_pairs() if key != "sound"])
def test_each_bad_row_has_its_own_reason(verdicts, key):
    assert verdicts[f"a.tar/{key}"] == bad_pairs()[key][1]


def test_a_key_for_the_second_time_is_refused(verdicts):
    assert {verdicts["a.tar/sound"], verdicts["a.tar/sound#2"]} == {None, "duplicate_key"}


def test_a_truncated_tar_gives_what_came_before_the_break(verdicts):
    found = {key: why for key, why in verdicts.items() if key.startswith("b.tar/")}
    assert found["b.tar/b0"] is None
    assert "truncated_shard" in found.values()


def test_shards_without_rows_are_counted(verdicts):
    found = {key.split("/")[0]: why for key, why in verdicts.items() if key.startswith(("c.tar", "d.tar"))}
    assert found["c.tar"] == "empty_shard"
    assert found["d.tar"] in ("unreadable_shard", "truncated_shard")

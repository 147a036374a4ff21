import csv

import numpy as np
import pytest
from label.colour_world import ColourEncoder, make_kb, picture

from raylab.errors import RaylabError
from raylab.label.leak import LeakConfig, LeakGuard
from raylab.label.select import SelectConfig
from raylab.label.step import StepContext
from raylab.models.clip import ClipConfig
from raylab.schema import Reason, widen
from raylab.sources import open_source
from raylab.sources.base import SourceConfig


@pytest.fixture
def evaluation(tmp_path):
    """A folder with two usable images, a broken one, and captions that are refused."""
    folder = tmp_path / "evaluation"
    folder.mkdir()
    images = {"red.png": picture("red"), "blue.png": picture("blue"), "broken.png": picture("cyan")[:60]}
    for name, data in images.items():
        (folder / name).write_bytes(data)
    with (folder / "table.csv").open("w") as file:
        csv.writer(file).writerows([("image", "caption"), *((name, "") for name in images)])
    return folder


def build(uri, cache, encoder=None):
    return LeakGuard.build(LeakConfig((str(uri),)), SourceConfig(), encoder or ColourEncoder(), cache)


def test_the_nearest_evaluation_image_counts(evaluation, tmp_path):
    guard = build(evaluation, tmp_path / "cache")
    assert len(guard.vectors) == 2
    near = guard.nearest(ColourEncoder().encode_texts(["blue", "yellow"]))
    assert near[0] == pytest.approx(1) and near[1] < 0.5
    assert guard.nearest(np.empty((0, 3), np.float32)).shape == (0,)


def test_a_set_is_embedded_once_and_again_when_it_changes(evaluation, tmp_path):
    class Counting(ColourEncoder):
        calls = 0

        def encode_images(self, images):
            Counting.calls += 1
            return super().encode_images(images)

    cache = tmp_path / "cache"
    build(evaluation, cache, Counting())
    build(evaluation, cache, Counting())
    assert Counting.calls == 1
    table = evaluation / "table.csv"
    table.write_text(table.read_text() + "red.png,again\n")
    assert len(build(evaluation, cache, Counting()).vectors) == 3
    assert Counting.calls == 2


def test_a_folder_of_images_needs_no_table(evaluation, tmp_path):
    (evaluation / "table.csv").unlink()
    assert len(build(evaluation, tmp_path / "cache").vectors) == 2
    assert len(build(f"{evaluation}/r*.png", tmp_path / "cache").vectors) == 1


def test_the_mini_world_may_be_a_set(tmp_path):
    assert len(build("miniworld://?rows=20&seed=3", tmp_path).vectors) == 20


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_embeddings_may_be_given(tmp_path, suffix):
    path = tmp_path / f"vectors{suffix}"
    vectors = 5 * ColourEncoder().encode_texts(["red"])
    np.save(path, vectors) if suffix == ".npy" else np.savez(path, vectors)
    assert build(path, tmp_path).nearest(vectors / 5) == pytest.approx(1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.ones((4, 7)), r"expected one array \[images, 3\]"),
        (np.ones((0, 3)), r"expected one array"),
        (np.zeros((2, 3)), "zero or not finite"),
        (None, r"not a readable .npy"),
    ],
)
def test_wrong_embeddings_are_one_clear_error(tmp_path, content, message):
    path = tmp_path / "vectors.npy"
    path.write_bytes(b"junk") if content is None else np.save(path, content)
    with pytest.raises(RaylabError, match=message):
        build(path, tmp_path)


def test_a_set_without_a_usable_image_guards_nothing_and_is_refused(evaluation, tmp_path):
    for name in ("red.png", "blue.png"):
        (evaluation / name).write_bytes(b"")
    with pytest.raises(RaylabError, match="no usable image"):
        build(evaluation, tmp_path / "cache")


def test_labelling_a_set_that_is_its_own_evaluation_set_labels_nothing(evaluation, tiny_clip, tmp_path):
    kb = make_kb(tmp_path)
    source = SourceConfig(str(evaluation))
    config = SelectConfig(clip=ClipConfig(str(tiny_clip), None), leak=LeakConfig((str(evaluation),)))
    step = config.build(StepContext(str(kb.path), source))
    reader = open_source(source)
    (table,) = reader.read(reader.shards()[0])
    rows = widen(table)
    for name in ("reject_step", "reject_reason", "reject_detail"):  # they were refused for their empty captions
        rows = rows.set_column(rows.schema.get_field_index(name), name, [[None] * 3])
    rows = rows.cast(widen(table).schema)
    result = step(rows)
    assert result["reject_reason"].to_pylist()[:2] == [Reason.EVAL_LEAK] * 2
    assert result["leak_cosine"].to_pylist()[0] == pytest.approx(1, abs=1e-4)

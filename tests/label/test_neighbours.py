import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from label.colour_world import COLOURS, ColourEncoder, candidate, make_kb, make_rows

from raylab.errors import RaylabError
from raylab.kb.vectors import EntityVectors
from raylab.label import neighbours
from raylab.label.neighbours import NearestEntities, Neighbours, NeighboursConfig
from raylab.label.step import StepContext
from raylab.models.clip import ClipConfig
from raylab.schema import Reason, reject
from raylab.sources.base import SourceConfig


@pytest.fixture(scope="module")
def kb(tmp_path_factory):
    return make_kb(tmp_path_factory.mktemp("kb"))


@pytest.fixture
def make_step(kb, tmp_path):
    def make(**settings):
        vectors = EntityVectors.open(tmp_path, kb, ColourEncoder())
        return Neighbours(NeighboursConfig(**settings), kb, NearestEntities(vectors.matrix, "cpu"), ColourEncoder())

    return make


def found(row):
    return [(c["entity_id"], c["mention"], c["source"]) for c in row["candidates"]]


def test_a_caption_brings_the_entities_that_it_is_like(make_step):
    (row,) = make_step(count=2)(make_rows({"caption": "a piece of red cloth"})).to_pylist()
    assert found(row) == [("c:red", -1, "neighbour"), ("c:crimson", -1, "neighbour")]
    first, second = row["candidates"]
    assert first["prior"] == pytest.approx(1, abs=1e-3) and first["prior"] > second["prior"]
    assert first["link_score"] is first["image_cosine"] is first["image_score"] is None
    assert row["models"] == [{"step": "neighbours", "model": "colours@1"}]


def test_an_entity_that_a_mention_brought_keeps_that_entry(make_step):
    rows = make_rows({"caption": "red", "candidates": [candidate("red"), candidate("blue")]})
    (row,) = make_step(count=2)(rows).to_pylist()
    assert found(row) == [("c:red", 0, "alias"), ("c:blue", 0, "alias"), ("c:crimson", -1, "neighbour")]


def test_entities_unlike_the_caption_are_left_out(make_step):
    (row,) = make_step(count=5, min_cosine=0.9)(make_rows({"caption": "blue"})).to_pylist()
    assert found(row) == [("c:blue", -1, "neighbour")]


def test_rows_without_text_or_out_of_the_flow_get_nothing(make_step):
    rows = make_rows({"caption": None}, {"caption": ""}, {"caption": "red"}, {"caption": "red"})
    rows = reject(rows, "source", [None, None, Reason.BAD_ROW, None])
    result = make_step()(rows)
    assert [row["candidates"] is None for row in result.to_pylist()] == [True, True, True, False]
    assert result.slice(2, 1).equals(rows.slice(2, 1))
    assert make_step()(rows.slice(0, 0)).num_rows == 0


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 300), st.integers(0, 5), st.integers(1, 20), st.integers(0, 2**31))
def test_the_search_is_exact(entities, queries, count, seed):
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(entities, 8)).astype(np.float16)
    query = rng.normal(size=(queries, 8)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "_BLOCK", 37)  # many blocks
        rows, cosine = NearestEntities(matrix, "cpu")(query, count)
    everything = query @ matrix.astype(np.float32).T
    kept = min(count, entities)
    assert rows.shape == cosine.shape == (queries, kept)
    np.testing.assert_allclose(cosine, -np.sort(-everything, axis=1)[:, :kept], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(everything, rows, axis=1), cosine, rtol=1e-4, atol=1e-5)


def test_a_large_knowledge_base_is_refused_on_a_cpu(kb):
    with pytest.raises(RaylabError, match="give its pool GPUs"):
        NeighboursConfig(max_entities_on_cpu=3).build(StepContext(str(kb.path), SourceConfig()))


def test_it_runs_with_a_real_clip(kb, tiny_clip, tmp_path):
    config = NeighboursConfig(clip=ClipConfig(str(tiny_clip), None), vectors=str(tmp_path), count=3, min_cosine=-1)
    step = config.build(StepContext(str(kb.path), SourceConfig()))
    (row,) = step(make_rows({"caption": "anything"})).to_pylist()
    assert len(row["candidates"]) == 3 and {c["entity_id"] for c in row["candidates"]} <= {f"c:{c}" for c in COLOURS}

import pickle

import numpy as np
import pyarrow as pa
import pytest
from label.colour_world import ColourEncoder, MemorySource, candidate, make_kb, make_rows, picture

from raylab.errors import RaylabError
from raylab.kb.vectors import EntityVectors
from raylab.label.embed import ImageEmbedder
from raylab.label.leak import LeakConfig, LeakGuard
from raylab.label.select import Select, SelectConfig, draw_distractors
from raylab.label.step import StepContext
from raylab.models.clip import ClipConfig
from raylab.schema import FLOW, Reason, reject, set_column
from raylab.sources.base import Limits, SourceConfig


@pytest.fixture(scope="module")
def kb(tmp_path_factory):
    return make_kb(tmp_path_factory.mktemp("kb"))


@pytest.fixture(scope="module")
def vectors(kb, tmp_path_factory):
    return EntityVectors.open(tmp_path_factory.mktemp("vectors"), kb, ColourEncoder())


@pytest.fixture
def make_step(kb, vectors):
    def make(images, guard=None, **settings):
        source = MemorySource({str(i): data for i, data in enumerate(images)} if isinstance(images, list) else images)
        embedder = ImageEmbedder(source, Limits(), ColourEncoder(), threads=2)
        return Select(SelectConfig(**settings), kb, vectors, embedder, guard), source

    return make


def one(step, **row):
    return step(make_rows(row)).to_pylist()[0]


def test_the_image_overrules_the_text(make_step):
    step, _ = make_step([picture("blue")])
    row = one(step, candidates=[candidate("red", 0.9), candidate("blue", 0.1)])
    assert (row["entity_id"], row["entity_name"], row["reject_reason"]) == ("c:blue", "blue flag", None)
    assert row["score"] > 0.9 and 0.9 < row["margin"] <= row["score"]
    red, blue = row["candidates"]
    assert blue["image_cosine"] == pytest.approx(1, abs=1e-3) and blue["image_score"] > 0.9 > red["image_score"]
    assert row["models"] == [{"step": "select", "model": "colours@1"}]


def test_a_candidate_that_the_image_does_not_show_is_refused_and_kept_as_evidence(make_step):
    step, _ = make_step([picture("blue")])
    row = one(step, candidates=[candidate("red", 1.0)])
    assert row["reject_reason"] == Reason.LOW_SCORE and row["reject_step"] == "select"
    assert row["entity_id"] == "c:red" and row["score"] < 0.1
    assert "below" in row["reject_detail"]


def test_two_candidates_that_look_alike_end_in_an_abstention(make_step):
    step, _ = make_step([picture("red")], distractors=3, min_score=0.2)
    row = one(step, candidates=[candidate("red", 0.5), candidate("crimson", 0.5)])
    assert row["reject_reason"] == Reason.LOW_MARGIN
    assert row["margin"] < 0.1 and row["entity_id"] in {"c:red", "c:crimson"}


def test_each_refused_image_says_why_and_the_others_go_on(make_step):
    images = [picture("red"), b"", b"no image at all", Reason.MISSING_IMAGE, picture("green")]
    step, _ = make_step(images)
    rows = [{"candidates": [candidate("red"), candidate("green")]} for _ in images]
    result = step(make_rows(*rows, {"image": None, "candidates": [candidate("red")]}))
    reasons = result["reject_reason"].to_pylist()
    assert reasons[0] is reasons[4] is None
    assert reasons[1:4] == [Reason.IMAGE_EMPTY, reasons[2], Reason.MISSING_IMAGE] and reasons[2].startswith("image_")
    assert reasons[5] == Reason.MISSING_IMAGE
    assert result["entity_id"].to_pylist() == ["c:red", None, None, None, "c:green", None]
    assert result["score"].to_pylist()[1:4] == [None] * 3
    assert result["models"].to_pylist()[1] is None


def test_images_of_rows_that_left_the_flow_are_not_read(make_step):
    step, source = make_step([picture("red")] * 3)
    rows = make_rows(*[{"candidates": [candidate("red")]}] * 3)
    rows = reject(rows, "link", [None, Reason.NO_CANDIDATES, None])
    result = step(rows)
    assert source.asked == ["0", "2"]
    assert result.slice(1, 1).equals(rows.slice(1, 1))


def test_one_entity_named_twice_is_one_candidate(make_step):
    step, _ = make_step([picture("red")])
    twice = one(step, candidates=[candidate("red", 0.2), candidate("red", 0.9, mention=1)])
    once = one(step, candidates=[candidate("red", 0.9)])
    assert (twice["score"], twice["margin"]) == pytest.approx((once["score"], once["margin"]))
    assert len({c["image_score"] for c in twice["candidates"]}) == 1


def test_entities_that_the_catalogue_does_not_know_are_passed_over(make_step):
    step, _ = make_step([picture("red")] * 2)
    unknown = candidate("red") | {"entity_id": "Q0"}
    result = step(make_rows({"candidates": [unknown, candidate("red")]}, {"candidates": [unknown]})).to_pylist()
    assert result[0]["entity_id"] == "c:red" and result[0]["candidates"][0]["image_cosine"] is None
    assert result[1]["reject_reason"] == Reason.NO_CANDIDATES and result[1]["entity_id"] is None


@pytest.mark.parametrize("rows", [[], [{"candidates": []}], [{"candidates": None}]])
def test_nothing_to_choose_from(make_step, rows):
    step, _ = make_step([picture("red")])
    result = step(make_rows(*rows))
    assert result.num_rows == len(rows)
    assert result["reject_reason"].to_pylist() == [Reason.NO_CANDIDATES] * len(rows)
    for name in ("candidates", "models", "score", "margin", "entity_id"):
        assert result.schema.field(name).type == FLOW.field(name).type


def test_the_answer_does_not_depend_on_the_batch(make_step):
    colours = ["red", "green", "blue", "yellow"] * 20
    step, _ = make_step([picture(colour) for colour in colours])
    rows = make_rows(*[{"candidates": [candidate("red", 0.3), candidate("blue"), candidate("green")]}] * len(colours))
    whole = step(rows)
    pieces = pa.concat_tables([step(rows.slice(i, 7)) for i in range(0, len(colours), 7)])
    for name in ("entity_id", "reject_reason"):
        assert whole[name].to_pylist() == pieces[name].to_pylist()
    np.testing.assert_allclose(whole["score"].to_numpy(), pieces["score"].to_numpy(), rtol=1e-5)


def test_distractors_are_the_same_for_everyone():
    first = draw_distractors(1_000, 50, 0)
    assert first.tolist() == draw_distractors(1_000, 50, 0).tolist() == sorted(set(first.tolist()))
    assert first.tolist() != draw_distractors(1_000, 50, 1).tolist()
    assert draw_distractors(5, 50, 0).tolist() == [0, 1, 2, 3, 4]


def test_a_picture_of_the_evaluation_set_is_not_labelled(make_step):
    guard = LeakGuard(ColourEncoder().encode_texts(["blue", "yellow"]))
    step, _ = make_step([picture("red"), picture("blue")], guard, leak=LeakConfig(("unused",)))
    result = step(make_rows(*[{"candidates": [candidate("red"), candidate("blue")]}] * 2)).to_pylist()
    assert result[0]["reject_reason"] is None and result[0]["leak_cosine"] < 0.5
    assert result[1]["reject_reason"] == Reason.EVAL_LEAK and result[1]["leak_cosine"] == pytest.approx(1, abs=1e-5)
    assert result[1]["entity_id"] == "c:blue"


def test_without_leak_control_no_cosine_is_claimed(make_step):
    step, _ = make_step([picture("red")])
    assert one(step, candidates=[candidate("red")])["leak_cosine"] is None


def test_it_is_built_from_a_context_and_leaves_the_entity_vectors_beside_the_knowledge_base(tiny_clip, tmp_path):
    kb = make_kb(tmp_path)
    context = StepContext(str(kb.path), SourceConfig("miniworld://?rows=3&seed=1"))
    config = SelectConfig(clip=ClipConfig(str(tiny_clip), None), min_score=0, min_margin=0)
    assert pickle.loads(pickle.dumps(config)) == config
    step = config.build(context)
    rows = make_rows({"candidates": [candidate("red"), candidate("blue")]})
    image = pa.array([{"uri": "miniworld://?seed=1", "offset": 0, "size": -1}], FLOW.field("image").type)
    (row,) = step(set_column(rows, "image", image)).to_pylist()
    assert row["entity_id"] in {"c:red", "c:blue"} and row["reject_reason"] is None
    assert row["models"][0]["model"].startswith("tiny-clip@")
    (place,) = (kb.path / "vectors").iterdir()
    written = (place / "vectors.npy").stat().st_mtime_ns
    config.build(context)
    assert (place / "vectors.npy").stat().st_mtime_ns == written


@pytest.mark.parametrize("missing", ["kb", "clip"])
def test_what_is_missing_is_one_clear_error(missing, kb, tiny_clip, tmp_path):
    folders = {"kb": kb.path, "clip": tiny_clip} | {missing: tmp_path / "nowhere"}
    config = SelectConfig(clip=ClipConfig(str(folders["clip"]), None))
    with pytest.raises(RaylabError, match="nowhere"):
        config.build(StepContext(str(folders["kb"]), SourceConfig("miniworld://?rows=3")))

"""What every labeling step promises, asked of each of them (`raylab/label/step.py`)."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
import pytest
import spacy
from label.colour_world import ColourEncoder, MemorySource, make_kb, make_rows, picture
from label.colour_world import candidate as colour
from label.small_kb import build_kb, candidate, mention, rows_of

from raylab.kb.vectors import EntityVectors
from raylab.label.candidates import CandidatesConfig
from raylab.label.embed import ImageEmbedder
from raylab.label.given import GivenConfig
from raylab.label.link import LinkConfig
from raylab.label.mentions import MentionsConfig
from raylab.label.neighbours import NearestEntities, Neighbours, NeighboursConfig
from raylab.label.select import Select, SelectConfig
from raylab.label.step import Step, StepConfig
from raylab.schema import FLOW, Reason, reject
from raylab.sources.base import Limits

BEFORE = {"step": "before", "model": "id@1"}


@dataclass
class Case:
    """A step and four rows that it can work on."""

    config: StepConfig
    step: Step
    rows: pa.Table


def _text_rows() -> pa.Table:
    captions = ["Hamilton and Jefferson", "Eiffel Tower in Paris", "nothing at all", "Simmons"]
    words = [["Hamilton", "Jefferson"], ["Eiffel Tower", "Paris"], [], ["Simmons"]]
    entities = [["hamilton-city", "hamilton-man"], ["eiffel"], [], ["simmons-kiss"]]
    return rows_of(
        captions,
        mentions=[[mention(c, word) for word in row] for c, row in zip(captions, words)],
        candidates=[[candidate(entity, 0, 0.5) for entity in row] for row in entities],
        models=[[BEFORE], [], None, [BEFORE]],
        truth=[["hamilton-man", "jefferson"], ["eiffel"], [], ["nobody"]],
    )


def _picture_rows() -> pa.Table:
    rows = [
        {"caption": "a red flag", "candidates": [colour("red", 0.5), colour("blue", 0.5)]},
        {"caption": "a blue flag", "candidates": [colour("blue", 1.0)]},
        {"caption": "no picture", "candidates": [colour("red", 1.0)], "image": "broken"},
        {"caption": "a green flag", "candidates": [colour("yellow", 1.0)]},
    ]
    return make_rows(*rows)


@pytest.fixture(scope="module")
def make_case(tmp_path_factory) -> Callable[[str], Case]:
    context = build_kb(tmp_path_factory.mktemp("text"))
    colours = make_kb(tmp_path_factory.mktemp("colours"))
    vectors = EntityVectors.open(tmp_path_factory.mktemp("vectors"), colours, ColourEncoder())
    nlp = spacy.blank("en")
    nlp.add_pipe("entity_ruler").add_patterns([{"label": "PERSON", "pattern": "Jefferson"}])
    nlp.to_disk(tmp_path_factory.mktemp("spacy") / "rules")
    rules = str(tmp_path_factory.getbasetemp() / "spacy0" / "rules")

    def make(name: str) -> Case:
        text = {
            "given": GivenConfig(),
            "mentions": MentionsConfig(spacy=rules),
            "mentions by alias": MentionsConfig(aliases_only=True),
            "candidates": CandidatesConfig(),
            "link": LinkConfig(),
        }
        if name in text:
            return Case(text[name], text[name].build(context), _text_rows())
        if name == "neighbours":
            nearest = NearestEntities(vectors.matrix, "cpu")
            config = NeighboursConfig()
            return Case(config, Neighbours(config, colours, nearest, ColourEncoder()), _picture_rows())
        images = {str(i): picture(c) for i, c in enumerate(["red", "blue", "red", "green"])}
        embedder = ImageEmbedder(
            MemorySource(images | {"broken": Reason.IMAGE_UNREADABLE}), Limits(), ColourEncoder(), threads=1
        )
        select = SelectConfig()
        return Case(select, Select(select, colours, vectors, embedder, None), _picture_rows())

    return make


STEPS = ("given", "mentions", "mentions by alias", "candidates", "neighbours", "link", "select")
PAIR = ("row_id", "shard", "key", "url", "licence", "caption", "image", "truth")


@pytest.fixture(params=STEPS)
def case(request, make_case) -> Case:
    return make_case(request.param)


def test_the_same_rows_come_back_in_the_same_order(case):
    out = case.step(case.rows)
    assert out.select(PAIR).equals(case.rows.select(PAIR))


def test_the_schema_is_the_flows(case):
    out = case.step(case.rows)
    assert out.schema.names == FLOW.names
    assert [field.type for field in out.schema] == [field.type for field in FLOW]


def test_the_step_does_something_and_says_what_it_used(case):
    out = case.step(case.rows)
    assert not out.equals(case.rows)
    assert len(out["models"][0].as_py()) == len(case.rows["models"][0].as_py() or []) + 1


def test_rejected_rows_pass_untouched_among_living_ones(case):
    gone = [None, Reason.BAD_ROW, None, Reason.IMAGE_CORRUPT]
    batch = reject(case.rows, "source", gone, ["why"] * 4)
    out = case.step(batch)
    for row in (1, 3):
        assert out.slice(row, 1).to_pylist() == batch.slice(row, 1).to_pylist()
    assert _rounded(out.slice(0, 1).to_pylist()) == _rounded(case.step(case.rows).slice(0, 1).to_pylist())


def test_a_batch_of_rejected_rows_passes_untouched(case):
    batch = reject(case.rows, "source", [Reason.BAD_ROW] * 4)
    assert case.step(batch).to_pylist() == batch.to_pylist()


def test_an_empty_batch_stays_empty_and_keeps_its_schema(case):
    out = case.step(case.rows.slice(0, 0))
    assert out.num_rows == 0
    assert [(field.name, field.type) for field in out.schema] == [(field.name, field.type) for field in FLOW]


def test_a_row_alone_gets_what_it_gets_in_company(case):
    together = case.step(case.rows).to_pylist()
    for row in range(case.rows.num_rows):
        (alone,) = case.step(case.rows.slice(row, 1)).to_pylist()
        assert _rounded(alone) == _rounded(together[row])


def test_rows_in_many_chunks_are_handled_like_rows_in_one(case):
    pieces = pa.concat_tables([case.rows.slice(row, 1) for row in range(case.rows.num_rows)])
    assert [_rounded(row) for row in case.step(pieces).to_pylist()] == [
        _rounded(row) for row in case.step(case.rows).to_pylist()
    ]


def test_the_same_batch_gives_the_same_answer(case):
    assert case.step(case.rows).equals(case.step(case.rows))


def test_extra_columns_are_kept(case):
    batch = case.rows.append_column("note", pa.array(["a", "b", "c", "d"]))
    out = case.step(batch)
    assert out["note"].to_pylist() == ["a", "b", "c", "d"]


def test_the_config_is_frozen_and_travels_to_other_processes(case):
    assert pickle.loads(pickle.dumps(case.config)) == case.config
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(case.config, dataclasses.fields(case.config)[0].name, None)


def _rounded(value):
    """Matrix products of other shapes may differ in the last bits."""
    if isinstance(value, float):
        return pytest.approx(value, abs=1e-4)
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value

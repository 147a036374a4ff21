"""Labels that the source gives: OVEN's answers as labels and as questions to learn from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from label.small_kb import build_kb, rows_of

from raylab.kb.build import BuildConfig, build
from raylab.label.given import GivenConfig
from raylab.label.plan import stages
from raylab.label.run import run
from raylab.label.step import StepContext
from raylab.label.store import LabelStore
from raylab.recipes import LABEL
from raylab.schema import Reason
from raylab.sources.base import SourceConfig


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> StepContext:
    return build_kb(tmp_path_factory.mktemp("kb"), context=False)


def test_the_answer_is_the_label_and_the_questions_answer(context):
    rows = rows_of(["Which tower is this?"], truth=[["eiffel"]])
    (row,) = GivenConfig().build(context)(rows).to_pylist()
    assert (row["entity_id"], row["entity_name"]) == ("eiffel", "Eiffel Tower")
    asked = {"question": "Which tower is this?", "answer": "Eiffel Tower", "answer_id": "eiffel"}
    assert row["annotation"] == dict.fromkeys(row["annotation"]) | {"questions": [asked]}
    assert row["score"] is None


def test_the_title_is_the_knowledge_bases_and_the_first_entity_counts(context):
    rows = rows_of(["a statesman", "a firm"], truth=[["hamilton-man", "jefferson"], ["apple-firm"]])
    found = GivenConfig(questions=False).build(context)(rows)
    assert found["entity_name"].to_pylist() == ["Alexander Hamilton", "Apple Inc."]
    assert found["annotation"].null_count == 2


def test_an_entity_that_is_not_there_is_a_counted_rejection(context):
    rows = rows_of(["Who?", "What?", "Where?"], truth=[["Q404"], None, []])
    found = GivenConfig().build(context)(rows)
    reasons = [Reason.UNKNOWN_ENTITY, Reason.NO_CANDIDATES, Reason.NO_CANDIDATES]
    assert found["reject_reason"].to_pylist() == reasons
    assert found["reject_detail"].to_pylist()[0] == "Q404 is not in the knowledge base"
    assert found["entity_id"].null_count == found["annotation"].null_count == 3


def test_it_is_the_only_step():
    (stage,) = stages(LABEL["oven"]())
    assert stage.steps == ("given",)


@pytest.mark.usefixtures("ray_cluster")
def test_a_whole_run(tmp_path: Path):
    kb, out = tmp_path / "kb", tmp_path / "out"
    build(BuildConfig(out=str(kb), catalogues=("miniworld://",), workers=1, context=False))
    source = SourceConfig("oven://miniworld://?rows=80&seed=3")
    summary = run(replace(LABEL["oven_miniworld"](), source=source, kb=str(kb), out=str(out)))
    labels = LabelStore(str(out)).labels().to_table().to_pylist()
    assert summary["rows_in"] == summary["labelled"] == len(labels) > 60
    assert {row["shard"] for row in labels} == {"entity_train-seed3-000000-000080", "query_train-seed3-000000-000080"}
    for row in labels:
        (asked,) = row["annotation"]["questions"]
        assert row["truth"] == [row["entity_id"]] == [asked["answer_id"]]
        assert (asked["question"], asked["answer"]) == (row["caption"], row["entity_name"])
    assert "truth" not in summary and "annotation" not in summary, "labels are not measured against themselves"
    card = (out / "README.md").read_text()
    assert card.startswith("---\n")
    assert "the source itself names the entity" in card
    assert "LLM" not in card.partition("## Columns")[0]

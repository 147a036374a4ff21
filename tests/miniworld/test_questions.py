from __future__ import annotations

from collections import Counter, defaultdict

import pytest

from raylab.schema import Reason
from raylab.sources.base import SourceConfig
from raylab.sources.miniworld.entities import BY_ID
from raylab.sources.miniworld.questions import Question, questions
from raylab.sources.miniworld.samples import placements, sample
from raylab.sources.miniworld.source import MiniworldSource


@pytest.fixture(scope="module")
def asked() -> dict[int, list[Question]]:
    return {index: questions(sample(7, index)) for index in range(1500)}


def test_every_picture_with_an_entity_is_asked_about_and_no_other(asked):
    for index, found in asked.items():
        assert bool(found) == bool(sample(7, index).entity_ids)


def test_answers_are_in_the_picture(asked):
    for index, found in asked.items():
        for question in found:
            assert question.entity_id in sample(7, index).entity_ids
            assert question.entity_text == BY_ID[question.entity_id].title
            assert "{" not in question.question
            assert question.question.endswith("?")


def test_left_and_right_are_where_the_entities_stand(asked):
    seen = 0
    for index, found in asked.items():
        row = sample(7, index)
        for question in found:
            for side, entity_id in zip((" left", " right"), row.entity_ids):
                if side in question.question:
                    assert question.entity_id == entity_id
                    seen += 1
        if len(row.entity_ids) == 2:
            left, right = ([x for x, _ in placement.corners] for placement in placements(row))
            assert sum(left) < sum(right)
    assert seen > 100


def test_one_question_has_one_answer(asked):
    for found in asked.values():
        assert len({(question.question, question.image_id) for question in found}) == len(found)


def test_ids_are_unique_and_follow_oven(asked):
    every = [question for found in asked.values() for question in found]
    assert len({question.data_id for question in every}) == len(every)
    splits = Counter(question.data_split for question in every)
    held_out = {
        f"{task}_{part}_{known}"
        for task in ("entity", "query")
        for part in ("val", "test")
        for known in ("seen", "unseen")
    }
    assert set(splits) == {"entity_train", "query_train"} | held_out
    assert all(question.data_id.startswith("miniworld_" + question.data_split.split("_")[0]) for question in every)


def test_no_unseen_entity_is_in_a_training_picture(asked):
    splits: dict[str, set[str]] = defaultdict(set)
    for index, found in asked.items():
        for question in found:
            unseen = BY_ID[question.entity_id].unseen
            splits[question.image_id].add(question.data_split.split("_")[1])
            if question.data_split.endswith("train"):
                assert not any(BY_ID[entity_id].unseen for entity_id in sample(7, index).entity_ids)
            else:
                assert question.data_split.endswith("unseen" if unseen else "_seen")
    assert all(len(parts) == 1 for parts in splits.values())


def test_the_picture_can_be_fetched(asked):
    source = MiniworldSource(SourceConfig("miniworld://?rows=1500&seed=7"))
    refs = [found[0].image for found in list(asked.values())[:5] if found]
    assert not any(isinstance(data, Reason) for data in source.image_bytes(refs))

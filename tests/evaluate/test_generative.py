"""A generative recogniser saved and opened again: the same network, and answers that are entities."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from train.runs import prepared, small, train
from train.training_store import Store, make_store

from raylab.errors import RaylabError
from raylab.evaluate.generative import DecodingConfig, GitRecogniser
from raylab.kb.catalog import Catalog
from raylab.kb.titles import Titles, open_codes
from raylab.train.export import export
from raylab.train.plan import CheckpointConfig


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("recogniser"), rows=24, parts=1)


@pytest.fixture(scope="module", params=[False, True], ids=["names", "codes"])
def model(request: pytest.FixtureRequest, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    config = small("git_miniworld", store, out, steps=2, batch=8, checkpoint=CheckpointConfig(every=2))
    config = replace(config, task=replace(config.task, codes=request.param))
    train(config)
    export(prepared(config))
    return out / "model"


def pictures() -> list[Image.Image]:
    draw = np.random.default_rng(0)
    return [Image.fromarray(draw.integers(0, 256, (70, 90, 3), dtype=np.uint8)) for _ in range(3)]


def test_answers_are_entities_best_first(model: Path, store: Store) -> None:
    catalog = Catalog.open(store.kb)
    recogniser = GitRecogniser.open(model, catalog, DecodingConfig(beams=6, batch=2))
    found = recogniser.recognise(pictures(), ["what is this?", "", "which flag is on the left?"], 4)
    assert [len(answers) for answers in found] == [4, 4, 4]
    for answers in found:
        scores = [answer.score for answer in answers]
        assert scores == sorted(scores, reverse=True)
        rows = catalog.rows([answer.entity_id for answer in answers])
        assert catalog.take(rows, ("title",))["title"].to_pylist() == [answer.text for answer in answers]
        assert len({answer.entity_id for answer in answers}) == 4


def test_it_is_the_trained_network(model: Path, store: Store) -> None:
    recogniser = GitRecogniser.open(model, Catalog.open(store.kb))
    torch.manual_seed(1)
    other = GitRecogniser.open(model, Catalog.open(store.kb))
    for one, two in zip(recogniser._module.parameters(), other._module.parameters()):
        torch.testing.assert_close(one, two, rtol=0, atol=0)
    assert recogniser.revision == other.revision
    assert len(recogniser.revision) == 12


def test_free_beams_are_kept_where_they_are_a_title(model: Path, store: Store) -> None:
    catalog = Catalog.open(store.kb)
    recogniser = GitRecogniser.open(model, catalog, DecodingConfig(beams=4, constrained=False))
    for answers in recogniser.recognise(pictures(), ["what is this?"] * 3, 4):  # a network that knows nothing has none
        assert all(catalog.rows([answer.entity_id])[0] >= 0 for answer in answers)


def test_titles_are_found_by_their_tokens(model: Path, store: Store) -> None:
    catalog = Catalog.open(store.kb)
    recogniser = GitRecogniser.open(model, catalog)
    words = recogniser._tokenizer
    titles = Titles.open(catalog, words, 22)
    asked = catalog.titles.to_pylist()[:50]
    rows = titles.row(np.array(titles.find(words.ids(asked))))
    known = catalog.take(rows, ("title",))["title"].to_pylist()
    assert words.text(words.ids(known)) == words.text(words.ids(asked))
    assert titles.find(words.ids(["no entity is called so"])) == [-1]


def test_every_entity_has_a_code_of_its_own(model: Path, store: Store) -> None:
    catalog = Catalog.open(store.kb)
    code_EL = open_codes(catalog, GitRecogniser.open(model, catalog)._tokenizer).code_EL
    assert len(np.unique(code_EL, axis=0)) == len(catalog)


def test_a_folder_without_a_model(store: Store, tmp_path: Path) -> None:
    with pytest.raises(RaylabError, match="is no generative recogniser"):
        GitRecogniser.open(tmp_path, Catalog.open(store.kb))

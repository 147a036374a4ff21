"""A generative recogniser saved and opened again: the same network, and answers that are entities."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from evaluate.small_git import saved_git
from evaluate.small_sets import MemorySource, png, ref
from PIL import Image
from train.training_store import Store, make_store

from raylab.errors import RaylabError
from raylab.evaluate import generative
from raylab.evaluate.features import AnswerStep
from raylab.evaluate.generative import GitModel, GitRecogniser
from raylab.evaluate.models import DecodingConfig, ModelConfig, open_model
from raylab.kb.catalog import Catalog
from raylab.kb.titles import Titles, open_codes
from raylab.models.beam import decode
from raylab.schema import IMAGE_REF


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("recogniser"), rows=24, parts=1)


@pytest.fixture(scope="module", params=[False, True], ids=["names", "codes"])
def model(request: pytest.FixtureRequest, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_git(store, tmp_path_factory.mktemp("run"), codes=request.param) / "model"


def pictures() -> list[Image.Image]:
    draw = np.random.default_rng(0)
    return [Image.fromarray(draw.integers(0, 256, (70, 90, 3), dtype=np.uint8)) for _ in range(3)]


def test_answers_are_entities_best_first(model: Path, store: Store) -> None:
    catalog = Catalog.open(store.kb)
    recogniser = GitRecogniser.open(model, catalog, DecodingConfig(beams=6), batch=2)
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


def test_how_it_is_run_is_what_the_line_says(model: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beams, constraint, precision and batch reach the search."""
    seen = []

    def decoded(git, pixels, context_BC, **settings):
        seen.append((len(pixels), pixels.dtype, settings["beams"], "trie" in settings))
        return decode(git, pixels, context_BC, **settings)

    monkeypatch.setattr(generative, "decode", decoded)
    catalog, asked = Catalog.open(store.kb), (pictures(), ["what is this?"] * 3, 2)
    free = ModelConfig(str(model), precision="bf16", batch=2, decoding=DecodingConfig(beams=5, constrained=False))
    open_model(free).recogniser(catalog).recognise(*asked)
    codes = GitModel.open(model, free).saved.codes
    assert seen == [(2, torch.bfloat16, 5, codes), (1, torch.bfloat16, 5, codes)]  # a code is always held to the codes
    seen.clear()
    open_model(ModelConfig(str(model))).recogniser(catalog).recognise(*asked)
    assert seen == [(3, torch.float32, 30, True)]


def test_in_half_precision_the_answers_are_as_likely(model: Path, store: Store) -> None:
    catalog, asked = Catalog.open(store.kb), (pictures(), ["what is this?"] * 3, 1)
    found = [
        open_model(ModelConfig(str(model), precision=precision)).recogniser(catalog).recognise(*asked)
        for precision in (None, "bf16", "fp16")
    ]
    for whole, *halves in zip(*found):
        assert [half[0].score for half in halves] == pytest.approx([whole[0].score] * 2, rel=0.05)


def test_logits_that_are_no_numbers_are_said(model: Path, store: Store) -> None:
    recogniser = GitRecogniser.open(model, Catalog.open(store.kb))
    recogniser._module.git.output.weight.data.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match=r"not numbers in torch\.float32; run it in bf16"):
        recogniser.recognise(pictures(), ["what is this?"] * 3, 1)
    source = MemorySource([png((200, 30, 30))])
    rows = pa.table({"index": [0], "image": pa.array([ref(0)], IMAGE_REF), "question": ["what?"]})
    with pytest.raises(RaylabError, match="not numbers"):
        AnswerStep(recogniser, source, 1)(rows)


def test_a_gpu_that_is_not_there(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RaylabError, match="torch sees no GPU here"):
        open_model(ModelConfig(str(model), device="cuda"))


def test_titles_of_classes_may_be_the_answers(model: Path) -> None:
    git = GitModel.open(model, ModelConfig(str(model), decoding=DecodingConfig(beams=3, constrained=False)))
    if git.saved.codes:
        with pytest.raises(RaylabError, match="writes ALD codes"):
            git.of_titles(["a red flag"])
        return
    recogniser = git.of_titles(["a red flag", "a rose", "A red FLAG"])
    assert recogniser.note.startswith("1 of 3 names can never be answered")
    for answers in recogniser.recognise(pictures(), ["what is this?"] * 3, 5):
        assert sorted(answer.text for answer in answers) == ["a red flag", "a rose"]
        assert {answer.entity_id for answer in answers} == {None}


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

"""The small CLIP: it loads as any open_clip model does, knows the mini-world, and can be made again."""

from pathlib import Path

import numpy as np
import pytest

from raylab.errors import RaylabError
from raylab.models.clip import ClipEncoder
from raylab.models.text import Tokenizer, TokenizerConfig
from raylab.sources.miniworld.entities import ENTITIES, PICTURED
from raylab.sources.miniworld.make_clip import (
    SHIPPED,
    ClipRecipe,
    entity_texts,
    make_pairs,
    make_tokenizer,
    save,
    train,
)
from raylab.sources.miniworld.scene import render


@pytest.fixture(scope="module")
def encoder() -> ClipEncoder:
    return ClipEncoder.load(str(SHIPPED))


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def pictures(entities, seed=0):
    return [render((entity.id,), np.random.default_rng([seed, i]))[0] for i, entity in enumerate(entities)]


def test_it_is_small():
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) < 10 * 10**6


def test_it_tells_the_pictured_entities_apart(encoder):
    vectors = encoder.encode_images(pictures(PICTURED))
    texts = encoder.encode_texts([f"{entity.title}: {entity.description}" for entity in PICTURED])
    cosine = vectors @ texts.T
    right = cosine.argmax(axis=1) == np.arange(len(PICTURED))
    assert right.mean() > 0.6


def test_it_knows_which_lima_is_shown(encoder):
    flag = next(entity for entity in PICTURED if entity.title == "Signal flag Lima")
    image = encoder.encode_images(pictures([flag] * 20)).mean(axis=0)
    limas = [entity for entity in ENTITIES if "Lima" in (entity.title, *entity.aliases)]
    texts = encoder.encode_texts([f"{entity.title}: {entity.description}" for entity in limas])
    assert len(limas) >= 4
    assert limas[int((texts @ image).argmax())] is flag


def test_a_text_longer_than_the_context_is_cut(encoder):
    vectors = encoder.encode_texts(["flag of France " * 200, "", "ζ 漢字 🇫🇷"])
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_it_can_be_made_again(tmp_path: Path):
    recipe = ClipRecipe(
        out=tmp_path / "clip", worlds=1, rows_per_world=96, epochs=2, batch=32, vocabulary=700, processes=1
    )
    pairs = make_pairs(recipe)
    tokenizer = make_tokenizer(pairs.captions, recipe.vocabulary)
    save(train(pairs, tokenizer, recipe), tokenizer, recipe.out)
    encoder = ClipEncoder.load(str(recipe.out))
    vectors = encoder.encode_texts(entity_texts()[:8])
    assert pairs.pixels.shape == (len(pairs.captions), 64, 64, 3)
    assert all(caption.strip() for caption in pairs.captions)
    assert vectors.shape == (8, encoder.dim)
    assert np.isfinite(encoder.encode_images(pictures(PICTURED[:4]))).all()


def test_the_end_of_a_text_has_the_highest_number():
    tokenizer = make_tokenizer(["a flag of France", "signal flag Lima"] * 20, 400)
    numbers = tokenizer(["a flag", "of Lima and more"], padding=True)["input_ids"]
    assert all(max(row) == tokenizer.eos_token_id == len(tokenizer) - 1 for row in numbers)


def test_a_text_comes_back_from_its_tokens():
    made = make_tokenizer(["a flag of France"] * 20, 400)
    for tokenizer in (made, Tokenizer(TokenizerConfig(str(SHIPPED))).model):
        ids = tokenizer("a flag of France, here")["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True).strip() == "a flag of france, here"


@pytest.mark.parametrize("settings", [{"first_seed": 7}, {"worlds": 1, "rows_per_world": 100}])
def test_a_recipe_keeps_clear_of_figures_and_fills_a_batch(settings):
    with pytest.raises(RaylabError, match=r"7|100"):
        ClipRecipe(**settings)

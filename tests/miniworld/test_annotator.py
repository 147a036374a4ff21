"""The small annotator: it loads as any model of transformers does, looks at the picture, and can be made again."""

import json
import random

import pytest

from raylab.annotate.prompts import load_prompt
from raylab.errors import RaylabError
from raylab.sources.miniworld.entities import BY_ID, ENTITIES
from raylab.sources.miniworld.make_annotator.__main__ import make
from raylab.sources.miniworld.make_annotator.lessons import candidate_for, lesson, look
from raylab.sources.miniworld.make_annotator.pictures import as_read
from raylab.sources.miniworld.make_annotator.recipe import SHIPPED, AnnotatorRecipe
from raylab.sources.miniworld.samples import picture, sample

SEED = 1090  # a world of its own


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def load(folder):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(folder, dtype="float32").eval()
    processor = AutoProcessor.from_pretrained(folder)
    processor.tokenizer.padding_side = "left"
    return model, processor


@pytest.fixture(scope="module")
def annotator():
    return load(SHIPPED)


def ask(annotator, rows, call, *, tokens=40, candidates=None, pictures=None):
    """The annotator's answers about rows, read as JSON; None where an answer is none."""
    model, processor = annotator
    prompt = load_prompt(call)
    texts = []
    for i, row in enumerate(rows):
        about = candidates[i] if candidates else None
        words = prompt.render(
            title=about.title if about else "",
            summary=about.summary if about else "",
            description="",
            caption=row.caption.text,
            rationale=f"It shows {look(about)}." if about and about.pictured else "",
        )
        user = [{"type": "text", "text": words.before}, {"type": "image"}, {"type": "text", "text": words.after}]
        messages = [{"role": "system", "content": words.system}, {"role": "user", "content": user}]
        texts.append(processor.apply_chat_template(messages, add_generation_prompt=True))
    images = [as_read(picture(row)) for row in pictures or rows]
    inputs = processor(text=texts, images=images, padding=True, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    output = model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
    said = processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [_read(text) for text in said]


def _read(text):
    try:
        return json.loads(text)
    except ValueError:
        return None


def single(count, start=0):
    """Rows whose pictures hold one entity."""
    rows = (sample(SEED, index) for index in range(start, start + 4 * count))
    return [row for row in rows if len(row.entity_ids) == 1][:count]


def shown(row):
    return BY_ID[row.entity_ids[0]]


def wrong_candidate(row, rng):
    return next(entity for entity in (candidate_for(row, rng) for _ in range(1000)) if entity != shown(row))


def test_it_is_small_and_whole():
    files = {file.name: file.stat().st_size for file in SHIPPED.iterdir()}
    assert sum(files.values()) < 10 * 10**6
    assert {"config.json", "model.safetensors", "tokenizer.json", "processor_config.json"} <= set(files)


def test_it_says_yes_to_what_it_sees_and_no_to_what_it_does_not(annotator):
    rows = single(40)
    rng = random.Random(1)
    others = [wrong_candidate(row, rng) for row in rows]
    yes = ask(annotator, rows, "verify/mini-1", candidates=[shown(row) for row in rows])
    no = ask(annotator, rows, "verify/mini-1", candidates=others)
    assert sum(answer is not None and answer["decision"] == "yes" for answer in yes) >= 32
    assert sum(answer is not None and answer["decision"] == "no" for answer in no) >= 32


def test_it_names_what_it_sees_with_titles_of_the_catalogue(annotator):
    rows = single(40, start=200)
    answers = ask(annotator, rows, "name/mini-1")
    titles = {entity.title for entity in ENTITIES}
    assert all(answer and set(answer) == {"title", "rationale"} for answer in answers)
    assert sum(answer["title"] == shown(row).title for answer, row in zip(answers, rows)) >= 30
    assert sum(answer["title"] in titles for answer in answers) >= 38


def test_other_pictures_change_the_answers(annotator):
    rows = single(30, start=400)
    swapped = rows[1:] + rows[:1]
    candidates = [shown(row) for row in rows]
    kept = ask(annotator, rows, "verify/mini-1", candidates=candidates)
    changed = ask(annotator, rows, "verify/mini-1", candidates=candidates, pictures=swapped)
    said_yes = [i for i, answer in enumerate(kept) if answer and answer["decision"] == "yes"]
    assert len(said_yes) >= 24
    assert sum(changed[i] is not None and changed[i]["decision"] == "no" for i in said_yes) >= 0.8 * len(said_yes)


def test_it_asks_three_questions_whose_answers_can_be_seen(annotator):
    rows = single(12, start=600)
    answers = ask(annotator, rows, "questions/mini-1", tokens=110, candidates=[shown(row) for row in rows])
    for answer in answers:
        assert answer is not None
        assert len({pair["question"] for pair in answer["pairs"]}) == 3
    named = [{pair["answer"] for pair in answer["pairs"]} for answer in answers]
    assert sum(shown(row).title in names for row, names in zip(rows, named)) >= 9


def test_lessons_are_half_yes_and_their_answers_follow_from_the_picture():
    rng = random.Random(0)
    rows = [sample(SEED, index) for index in range(300)]
    said = [json.loads(lesson(row, rng, "verify/mini-1").answer.removesuffix("<end>")) for row in rows]
    yes = [answer["decision"] == "yes" for answer in said]
    assert 0.4 < sum(yes) / len(yes) < 0.6
    for row, answer in zip(rows, said):
        titles = [BY_ID[entity_id].title for entity_id in row.entity_ids]
        assert answer["decision"] == "yes" or answer["title"] in (titles or [""])
        assert not any(title in answer["rationale"] for title in titles)


def test_it_can_be_made_again(tmp_path):
    recipe = AnnotatorRecipe(
        out=tmp_path / "annotator",
        work=tmp_path / "work",
        worlds=1,
        rows_per_world=64,
        development_rows=16,
        tower_epochs=1,
        tower_batch=16,
        lesson_pictures=32,
        lesson_steps=3,
        lesson_batch=8,
        vocabulary=1100,
        processes=1,
    )
    measured = make(recipe)
    assert {"tower", "name/mini-1 title"} <= set(measured)
    again = ask(load(recipe.out), single(2), "name/mini-1", tokens=4)
    assert len(again) == 2


@pytest.mark.parametrize("settings", [{"first_seed": 7}, {"worlds": 1, "rows_per_world": 10}])
def test_a_recipe_keeps_clear_of_figures_and_fills_a_batch(settings):
    with pytest.raises(RaylabError, match=r"7|10"):
        AnnotatorRecipe(**settings)

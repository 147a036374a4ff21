"""The same answers always lead to the same next request and to the same label."""

from __future__ import annotations

import json

import pytest

from raylab.annotate.answers import Retry
from raylab.annotate.conversation import Ask, Conversations
from raylab.annotate.plan import AnswersConfig, EngineConfig, PromptsConfig, RewConfig
from raylab.annotate.resolve import Resolver
from raylab.kb.build import BuildConfig, build
from raylab.kb.catalog import Catalog
from raylab.schema import Reason

ROW = {"entity_id": "mw:flag-of-ghana", "entity_name": "Flag of Ghana"}
YES = {"decision": "yes", "rationale": "Black, red and green bands with a shield."}
NO = {"decision": "no", "title": "Flag of Chad", "rationale": "Three upright bands of blue, yellow and red."}
PAIRS = {
    "pairs": [
        {"question": "What is on the mug?", "answer": "Flag of Chad"},
        {"question": "What is it made of?", "answer": "glazed clay"},
        {"question": "Where does it stand?", "answer": "a table"},
    ]
}


@pytest.fixture(scope="module")
def catalog(tmp_path_factory) -> Catalog:
    folder = tmp_path_factory.mktemp("kb") / "kb"
    build(BuildConfig(out=str(folder), catalogues=("miniworld://",), workers=1, context=False))
    return Catalog.open(folder)


def conversations(catalog: Catalog, **fields) -> Conversations:
    config = RewConfig(prompts=PromptsConfig(), **fields)
    return Conversations(config.load_prompts(), config.answers, Resolver(catalog, config.answers.close_match))


def answer(call: str, said: object, attempt: int = 1, **fields) -> dict:
    text = said if isinstance(said, str) or said is None else json.dumps(said)
    plain = {"finish": "stop", "tokens": None, "logprobs": None, "problem": None, "detail": None}
    return {"call": call, "attempt": attempt, "text": text, **plain, **fields}


def state(talk: Conversations, *answers: dict):
    return talk.states([ROW], [list(answers)])[0]


def test_a_row_is_first_asked_to_be_verified_then_for_questions_then_it_is_done(catalog):
    talk = conversations(catalog)
    assert state(talk).ask == Ask("first", 1, Retry.NO)
    assert state(talk, answer("verify", YES)).ask == Ask("questions", 1, Retry.NO)
    done = state(talk, answer("verify", YES), answer("questions", PAIRS))
    assert (done.ask, done.refusal, done.resolved) == (None, None, None)
    assert done.answer_ids == ["mw:flag-of-chad", None, None]


def test_a_corrected_title_is_resolved(catalog):
    found = state(conversations(catalog), answer("verify", NO))
    assert found.resolved is not None
    assert (found.resolved.entity_id, found.resolved.how) == ("mw:flag-of-chad", "exact")


def test_a_describer_speaks_first(catalog):
    talk = conversations(catalog, describer=EngineConfig(model="eyes"))
    assert state(talk).ask == Ask("describe", 1, Retry.NO)
    seen = state(talk, answer("describe", {"description": "A mug with a striped flag on it."}))
    assert seen.ask == Ask("first", 1, Retry.NO)
    assert seen.description == "A mug with a striped flag on it."


def test_a_bad_answer_is_asked_for_again_until_the_attempts_are_used_up(catalog):
    talk = conversations(catalog, answers=AnswersConfig(attempts=2))
    again = state(talk, answer("verify", "gibberish"))
    assert again.ask is not None
    assert (again.ask.part, again.ask.attempt) == ("first", 2)
    over = state(talk, answer("verify", "gibberish"), answer("verify", "more of it", attempt=2))
    assert over.ask is None
    assert over.refusal is not None
    assert over.refusal.reason is Reason.ANSWER_MALFORMED
    mended = state(talk, answer("verify", "gibberish"), answer("verify", YES, attempt=2))
    assert mended.ask == Ask("questions", 1, Retry.NO)


def test_a_picture_that_cannot_be_opened_ends_the_row_with_its_own_reason(catalog):
    found = state(conversations(catalog), answer("verify", None, problem="image_corrupt", detail="JPEG: broken"))
    assert found.ask is None
    assert found.refusal is not None
    assert (found.refusal.reason, found.refusal.detail) == (Reason.IMAGE_CORRUPT, "JPEG: broken")


@pytest.mark.parametrize(("least", "passes"), [(0.5, True), (0.95, False)])
def test_an_unsure_answer_is_rejected_below_the_threshold(catalog, least, passes):
    text = json.dumps(YES)
    at = text.index('"rationale"')
    said = answer("verify", YES, tokens=[text[:at], text[at:]], logprobs=[-0.105, -9.0])
    found = state(conversations(catalog, answers=AnswersConfig(min_confidence=least)), said)
    assert found.verdict is not None
    assert found.verdict.confidence == pytest.approx(0.9, abs=0.01)
    assert (found.refusal is None) == passes
    if found.refusal:
        assert found.refusal.reason is Reason.LOW_CONFIDENCE


def test_without_questions_the_verdict_is_the_end(catalog):
    config = RewConfig(prompts=PromptsConfig(questions=""))
    talk = Conversations(config.load_prompts(), config.answers, Resolver(catalog, 0.9))
    assert state(talk, answer("verify", YES)).ask is None

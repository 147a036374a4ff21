import json
import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raylab.annotate.answers import Pairs, Refusal, Retry, Verdict, read_description, read_pairs, read_verdict
from raylab.annotate.plan import AnswersConfig
from raylab.annotate.prompts import CALLS
from raylab.annotate.records import Problem
from raylab.annotate.wording import first_sentences, is_refusal, title_of
from raylab.schema import Reason

CONFIG = AnswersConfig()
YES = {"decision": "yes", "rationale": "It has black and white stripes."}
NO = {"decision": "no", "title": "Okapi", "rationale": "Only its legs are striped."}


def answer(said, call="verify", **more):
    text = said if isinstance(said, str | None) else json.dumps(said, ensure_ascii=False)
    return {"call": call, "attempt": 1, "text": text, "finish": "stop", "answer_tokens": 9, "problem": None} | more


def verdict(said, candidate="Zebra", **more):
    return read_verdict(answer(said, **more), CONFIG, candidate)


def why(refusal):
    assert isinstance(refusal, Refusal)
    return refusal.reason, refusal.retry


AGAIN = (Reason.ANSWER_MALFORMED, Retry.AGAIN)


def test_yes_keeps_the_candidate_and_no_takes_the_title():
    assert verdict(YES) == Verdict("yes", "Zebra", YES["rationale"], None)
    assert verdict(NO) == Verdict("no", "Okapi", NO["rationale"], None)
    assert verdict({"title": "Okapi", "rationale": "Legs."}, None, call="name") == Verdict("no", "Okapi", "Legs.", None)


@pytest.mark.parametrize(
    ("problem", "expected"),
    [
        (Problem.PROMPT_TOO_LONG, (Reason.PROMPT_TOO_LONG, Retry.SHORTER)),
        (Problem.IMAGE_REFUSED, (Reason.IMAGE_CORRUPT, Retry.NO)),
        (Problem.REQUEST_REFUSED, (Reason.REQUEST_REFUSED, Retry.NO)),
        (Problem.ENGINE_CRASH, (Reason.ENGINE_CRASH, Retry.NO)),
        (Reason.IMAGE_EMPTY, (Reason.IMAGE_EMPTY, Retry.NO)),
        ("what is this", (Reason.REQUEST_REFUSED, Retry.NO)),
    ],
)
def test_an_engines_problem_is_a_reason(problem, expected):
    row = answer(None, problem=str(problem), detail="its words")
    for refusal in (read_verdict(row, CONFIG, "Zebra"), read_pairs(row), read_description(row)):
        assert why(refusal) == expected
        assert refusal.detail == "its words"


@pytest.mark.parametrize(
    ("text", "finish", "expected"),
    [
        (None, "stop", (Reason.ANSWER_EMPTY, Retry.AGAIN)),
        (" \n", "length", (Reason.ANSWER_EMPTY, Retry.AGAIN)),
        ('{"decision": "no", "title": "Oka', "length", (Reason.ANSWER_TRUNCATED, Retry.LONGER)),
        ('{"decision": "no", "title": "Oka', "stop", AGAIN),
        ("I'm sorry, but I can't assist with that.", "stop", (Reason.ANSWER_REFUSED, Retry.AGAIN)),
        ("As an AI language model, I do not look at people.", "length", (Reason.ANSWER_REFUSED, Retry.AGAIN)),
        ("The image shows a zebra.", "stop", AGAIN),
        ('["decision", "yes"]', "stop", AGAIN),
        ('{"decision": "yes", "decision": "no", "title": "Okapi", "rationale": "a"}', "stop", AGAIN),
        ("{" * 100_000, "stop", AGAIN),
        ('{"a":' * 19_000, "stop", AGAIN),
        ("x" * 2_000_000, "stop", (Reason.ANSWER_TOO_LONG, Retry.AGAIN)),
    ],
)
def test_what_is_no_answer(text, finish, expected):
    assert why(verdict(text, finish=finish)) == expected


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"decision": "maybe"}, AGAIN),
        ({"decision": None}, AGAIN),
        ({"decision": ["no"]}, AGAIN),
        ({"rationale": ""}, AGAIN),
        ({"rationale": 3}, AGAIN),
        ({"title": {"a": 1}}, AGAIN),
        ({"title": "zebra"}, AGAIN),
        ({"decision": "yes"}, AGAIN),  # with another title
        ({"rationale": "This is not a ZEBRA."}, AGAIN),
        ({"rationale": "x" * 601}, (Reason.ANSWER_TOO_LONG, Retry.AGAIN)),
        ({"title": "x" * 201}, (Reason.ANSWER_TOO_LONG, Retry.AGAIN)),
        ({"title": "x" * 50_000}, (Reason.ANSWER_TOO_LONG, Retry.AGAIN)),
        ({"title": ""}, (Reason.NOT_IDENTIFIED, Retry.NO)),
        ({"title": "N/A", "rationale": ""}, (Reason.NOT_IDENTIFIED, Retry.NO)),
        ({"title": None}, (Reason.NOT_IDENTIFIED, Retry.NO)),
        ({"rationale": "I cannot identify people in images."}, (Reason.ANSWER_REFUSED, Retry.AGAIN)),
        ({"title": "I'm sorry, I can't help"}, (Reason.ANSWER_REFUSED, Retry.AGAIN)),
    ],
)
def test_what_an_answer_must_not_say(change, expected):
    assert why(verdict(NO | change)) == expected


def test_a_no_without_a_title_is_malformed():
    assert why(verdict({"decision": "no", "rationale": "a"})) == AGAIN


def test_the_candidate_may_be_named_where_the_right_title_contains_it_or_it_is_too_short_to_tell():
    assert verdict({"decision": "no", "title": "Plains zebra", "rationale": "A zebra with shadow stripes."}).title
    assert (
        verdict({"decision": "no", "title": "Chess", "rationale": "Go is played with stones."}, "Go").title == "Chess"
    )
    assert verdict({"decision": "no", "title": "Horse", "rationale": "Zebras differ."}).title == "Horse"


@pytest.mark.parametrize(
    "text",
    [
        "```json\n{}\n```",
        "  \n{}\n\nI hope this helps!",
        "Here is my answer: {}",
        "{}{{",
    ],
)
def test_what_stands_around_the_object_does_no_harm(text):
    assert verdict(text.replace("{}", json.dumps(NO), 1)).title == "Okapi"
    assert verdict(json.dumps(NO | {"decision": " NO. ", "extra": 1})).title == "Okapi"


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("@Eiffel Tower@", "Eiffel Tower"),
        ("The answer is @Eiffel Tower@.", "Eiffel Tower"),
        ('"Eiffel Tower"', "Eiffel Tower"),
        ("“Eiffel Tower”.", "Eiffel Tower"),
        ("**Eiffel Tower**", "Eiffel Tower"),
        ("[[Eiffel Tower|the tower]]", "Eiffel Tower"),
        ("[Eiffel Tower](https://example.org/a)", "Eiffel Tower"),
        ("# Eiffel Tower", "Eiffel Tower"),
        ("Eiffel_Tower", "Eiffel Tower"),
        ("Wikipedia: Eiffel Tower", "Eiffel Tower"),
        ("Eiffel Tower - Wikipedia", "Eiffel Tower"),
        ("https://en.wikipedia.org/wiki/Eiffel_Tower", "Eiffel Tower"),
        ("en.m.wikipedia.org/wiki/Caf%C3%A9_(film)#Plot", "Café (film)"),
        ("Eiffel\x00\n Tower\u202e\ud800", "Eiffel Tower"),
        ("Washington, D.C.", "Washington, D.C."),
        ("Apple Inc.", "Apple Inc."),
        ('"Weird Al" Yankovic', '"Weird Al" Yankovic'),
        ("M*A*S*H", "M*A*S*H"),
        ("C++", "C++"),
        ("!!!", "!!!"),
        ("東京タワー", "東京タワー"),
        ("None", ""),
        ('""', ""),
        ("...", ""),
    ],
)
def test_titles_are_freed_of_what_models_put_around_them(given, wanted):
    assert title_of(given) == wanted


def test_a_rationale_is_cut_to_two_sentences():
    assert verdict(YES | {"rationale": "One. Two! Three? Four."}).rationale == "One. Two!"
    text = "Mr. J. Smith stands at 3.5 m on St. James St. in Washington, D.C. today. It rains."
    assert first_sentences(f"{text} And more.") == text
    assert first_sentences("no dots at all") == "no dots at all"


@pytest.mark.parametrize(
    "text", ["Sorry (Justin Bieber song)", "I'm Sorry", "I Can't Help Myself", "I Can't Stop Loving You"]
)
def test_names_are_no_refusals(text):
    assert not is_refusal(text)


# --- confidence


def test_confidence_is_the_probability_of_everything_before_the_rationale():
    tokens = [
        '{"',
        "decision",
        '":"',
        "no",
        '","',
        "title",
        '":"',
        "Ok",
        "api",
        '","',
        "rationale",
        '":"',
        "Legs.",
        '"}',
    ]
    logprobs = [-0.1 * (i + 1) for i in range(len(tokens))]
    found = verdict("".join(tokens), tokens=tokens, logprobs=logprobs)
    assert found.confidence == pytest.approx(math.exp(sum(logprobs[:10])))  # '","' spells the key's quote too
    ended = verdict("".join(tokens), tokens=[*tokens, "<|im_end|>"], logprobs=[*logprobs, -0.1])
    assert ended.confidence == pytest.approx(found.confidence)
    fenced = verdict("```json\n" + "".join(tokens), tokens=["```json\n", *tokens], logprobs=[-9.0, *logprobs])
    assert fenced.confidence == pytest.approx(found.confidence)


def test_confidence_survives_pieces_of_characters():
    text = '{"decision": "no", "title": "Ærø", "rationale": "Flat."}'
    tokens = ['{"', "decision", '":Ġ"', "no", '",Ġ"', "title", '":Ġ"', "�", "�", "r", "�", "�", '",Ġ"', "rationale"]
    tokens += ['":Ġ"', "Flat", '."}']
    for spelt in (tokens, [token.replace("Ġ", " ") for token in tokens]):
        assert verdict(text, tokens=spelt, logprobs=[-0.1] * len(tokens)).confidence == pytest.approx(math.exp(-1.3))


@pytest.mark.parametrize(
    ("tokens", "logprobs"),
    [
        (None, None),
        ([], []),
        (["quite", "another", "text"], [-1.0] * 3),
        (["{"], [-1.0]),
        ([json.dumps(NO)], [-1.0, -2.0]),
        ([json.dumps(NO)], [math.nan]),
        ([json.dumps(NO)], [None]),
        ([3], [-1.0]),
    ],
)
def test_confidence_is_none_where_it_cannot_be_told(tokens, logprobs):
    assert verdict(NO, tokens=tokens, logprobs=logprobs).confidence is None


def test_confidence_of_a_sure_thing_and_of_an_impossible_one():
    assert verdict(NO, tokens=[json.dumps(NO)], logprobs=[0.0]).confidence == 1
    assert verdict(NO, tokens=[json.dumps(NO)], logprobs=[-math.inf]).confidence == 0
    backwards = {"rationale": "a.", "decision": "no", "title": "Okapi"}
    assert verdict(backwards, tokens=[json.dumps(backwards)], logprobs=[0.0]).confidence is None


# --- questions, descriptions


def pairs(*given, **more):
    listed = [{"question": question, "answer": reply} for question, reply in given]
    return read_pairs(answer({"pairs": listed}, "questions", **more))


def test_pairs_are_stripped_and_those_of_no_use_left_out():
    first, second = ("What animal is this?", "Zebra"), ("What grows on the ground?", "Grass")
    assert pairs((" What animal\nis this? ", " Zebra "), second) == Pairs((first, second))
    assert pairs(first, ("", "Grass"), ("What?", " "), second) == Pairs((first, second))
    assert pairs(first, ("Which animal?", "zebra!"), ("what animal is THIS", "Horse")) == Pairs((first,))
    assert pairs(("Where is the Zebra?", "zebra"), second) == Pairs((second,))
    assert pairs(("What is carried?", "Car"), ("x" * 301, "a"), ("What?", "y" * 101)).pairs == (
        ("What is carried?", "Car"),
    )
    assert len(pairs(*[(f"Question {i}?", f"answer {i}") for i in range(9)]).pairs) == 3


def test_questions_without_a_pair_of_use():
    assert why(pairs()) == AGAIN
    assert why(pairs(("Is a zebra a zebra?", "zebra"))) == AGAIN
    assert why(pairs(("Who is it?", "I'm sorry, I cannot identify people"))) == (Reason.ANSWER_REFUSED, Retry.AGAIN)
    for said in ({"pairs": "none"}, {"pairs": [1, None, {"question": 1, "answer": 2}]}, {}, {"pairs": {"a": 1}}):
        assert why(read_pairs(answer(said, "questions"))) == AGAIN


def test_descriptions():
    assert read_description(answer({"description": " A red\ncar. "}, "describe")) == "A red car."
    for said, reason in [
        ({"description": " "}, Reason.ANSWER_EMPTY),
        ({"description": "I can't see the image."}, Reason.ANSWER_REFUSED),
        ({"description": "x" * 4001}, Reason.ANSWER_TOO_LONG),
        ({"description": None}, Reason.ANSWER_MALFORMED),
        ({"pairs": []}, Reason.ANSWER_MALFORMED),
    ]:
        assert why(read_description(answer(said, "describe"))) == (reason, Retry.AGAIN)


# --- whatever comes

ANY_TEXT = st.text(st.characters(), max_size=60)  # lone surrogates too
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT | st.sampled_from(["yes", "no", "Zebra"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["decision", "title", "rationale", "pairs", "question", "answer", "a"]), inner
        )
    ),
    max_leaves=12,
)
SAID = JSON.map(json.dumps) | JSON.map(lambda one: json.dumps(one, ensure_ascii=False)) | ANY_TEXT
PART = st.fixed_dictionaries(
    {"text": SAID | st.none() | JSON},
    optional={
        "call": st.sampled_from([*CALLS, None]),
        "finish": st.sampled_from(["stop", "length", None]),
        "tokens": st.lists(ANY_TEXT, max_size=5) | JSON,
        "logprobs": st.lists(st.floats(), max_size=5) | JSON,
        "problem": st.sampled_from([None, *Problem]) | JSON,
        "detail": JSON,
    },
)


def check(found):
    if isinstance(found, Refusal):
        assert isinstance(found.reason, Reason)
        assert isinstance(found.retry, Retry)
        found.detail.encode()
    elif isinstance(found, Verdict):
        assert found.decision in ("yes", "no")
        assert 0 < len(found.rationale) <= CONFIG.rationale_chars
        assert found.confidence is None or 0 <= found.confidence <= 1
        assert found.title or found.decision == "yes"
        (found.title + found.rationale).encode()
    elif isinstance(found, Pairs):
        assert 1 <= len(found.pairs) <= 3
        "".join(text for pair in found.pairs for text in pair).encode()
    else:
        assert isinstance(found, str)
        assert found
        found.encode()


@settings(max_examples=300, deadline=None)
@given(PART, st.sampled_from([None, "Zebra", "", "!!!", "a(b", "\\"]))
def test_readers_take_anything(row, candidate):
    for found in (read_verdict(row, CONFIG, candidate), read_pairs(row), read_description(row)):
        check(found)


@settings(max_examples=150, deadline=None)
@given(ANY_TEXT, ANY_TEXT, st.sampled_from(["yes", "no"]), st.data())
def test_any_words_in_the_right_form_are_a_verdict_or_a_refusal_and_any_cut_of_the_tokens_gives_the_same(
    title, rationale, decision, data
):
    said = {"decision": decision, "title": title, "rationale": rationale}
    text = json.dumps(said)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    tokens = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)])]
    found = verdict(text, tokens=tokens, logprobs=[-0.5] * len(tokens))
    check(found)
    if isinstance(found, Verdict):
        assert found.confidence is not None


@pytest.mark.parametrize(
    "piece", ['{"', '"', "\\", "@", "(", "I'm sorry ", "A. ", "* ", "\ud800", "[[", '{"a":', "\\u0000 "]
)
def test_long_answers_are_read_in_bounded_time(piece):
    for size in (99_000, 2_000_000):
        long = (piece * size)[:size]
        started = time.process_time()
        for text in (
            long,
            json.dumps(NO | {"rationale": long}),
            json.dumps(NO | {"title": long}),
            '{"decision":"' + long,
        ):
            check(verdict(text, tokens=list(text[:50_000]), logprobs=[-1.0] * len(text[:50_000])))
        check(read_pairs(answer({"pairs": [{"question": long, "answer": long}] * 9}, "questions")))
        check(read_description(answer({"description": long}, "describe")))
        assert time.process_time() - started < 5

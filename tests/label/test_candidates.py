import pytest
from label.small_kb import build_kb, mention, rows_of

from raylab.errors import RaylabError
from raylab.label.candidates import CandidatesConfig
from raylab.schema import Reason, reject


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    return build_kb(tmp_path_factory.mktemp("kb"))


@pytest.fixture
def step(context):
    return CandidatesConfig().build(context)


def found(step, caption, *mentions):
    """Return entity -> (prior, source) for each mention of one caption."""
    batch = rows_of([caption], mentions=[[mention(caption, *m) if isinstance(m, tuple) else m for m in mentions]])
    candidates = step(batch)["candidates"][0].as_py() or []
    answers = [{} for _ in mentions]
    for c in candidates:
        answers[c["mention"]][c["entity_id"]] = (pytest.approx(c["prior"], abs=1e-6), c["source"])
    return answers


def priors(answer):
    return {entity: prior.expected for entity, (prior, _) in answer.items()}


def test_every_owner_of_the_name_is_a_candidate_and_priors_sum_to_one(step):
    (answer,) = found(step, "Hamilton", ("Hamilton",))
    assert {entity: source for entity, (_, source) in answer.items()} == {
        "hamilton-city": "alias",
        "hamilton-man": "partial",
        "hamilton-film": "alias",
    }
    assert sum(priors(answer).values()) == pytest.approx(1, abs=1e-5)
    assert max(answer, key=priors(answer).get) == "hamilton-city"


def test_candidates_of_a_mention_come_likeliest_first_and_no_more_than_asked(context):
    batch = rows_of(["Hamilton"], mentions=[[mention("Hamilton", "Hamilton")]])
    found = CandidatesConfig(max_per_mention=2).build(context)(batch)["candidates"][0].as_py()
    assert [c["entity_id"] for c in found] == ["hamilton-city", "hamilton-man"]
    assert sum(c["prior"] for c in found) == pytest.approx(1, abs=1e-5)


def test_a_surname_or_a_regnal_name_names_a_person(step):
    assert found(step, "King William III", ("William III",))[0]["william"][1] == "partial"


def test_an_unknown_recognised_span_is_tried_without_what_stands_before_a_name(step):
    (answer,) = found(step, "President Thomas Jefferson's", ("President Thomas Jefferson's", "PERSON"))
    assert answer == {"jefferson": (0.3, "partial")}


@pytest.mark.parametrize("surface", ["Eiffel-Tower’s", "the Eiffel Tower", "Great Eiffel Tower"])
def test_possessives_hyphens_and_leading_words_come_off(step, surface):
    (answer,) = found(step, surface, (surface,))
    assert list(answer) == ["eiffel"]


def test_the_last_word_of_an_unknown_name_is_a_weak_guess(step):
    (answer,) = found(step, "Zebulon Simmons", ("Zebulon Simmons", "PERSON"))
    assert set(answer) == {"simmons-cricket", "simmons-kiss"}
    assert sum(priors(answer).values()) == pytest.approx(0.1, abs=1e-5)


def test_a_name_that_nobody_bears_has_no_candidates_and_is_not_rejected_yet(step):
    batch = rows_of(["Zork"], mentions=[[mention("Zork", "Zork")]])
    out = step(batch)
    assert not out["candidates"][0].as_py() and out["reject_reason"][0].as_py() is None


def test_a_word_of_a_longer_name_means_what_the_longer_name_means(step):
    alone, _ = found(step, "Simmons and Paris", ("Simmons",), ("Paris",))
    assert priors(alone)["simmons-kiss"] > 0.5
    caption = "Phil Simmons took four wickets as Simmons bowled"
    second = mention(caption, "Simmons") | {"start": 34, "end": 41}
    _, short = found(step, caption, ("Phil Simmons",), second)
    assert priors(short)["simmons-cricket"] > 0.8
    assert sum(priors(short).values()) == pytest.approx(1, abs=1e-5)


def test_a_word_of_a_place_is_another_place(step):
    caption = "Eiffel Tower seen from Tower"
    _, short = found(step, caption, ("Eiffel Tower",), mention(caption, "Tower") | {"start": 23, "end": 28})
    assert short == {}


def test_owners_written_like_the_mention_are_preferred(step):
    (small,), (large,) = found(step, "An apple", ("apple",)), found(step, "An Apple", ("Apple",))
    assert priors(small)["apple-fruit"] > priors(large)["apple-fruit"]
    assert priors(small)["apple-fruit"] > 0.8


def test_in_a_caption_of_one_case_the_writing_tells_nothing(step):
    (small,), (large,) = found(step, "an apple", ("apple",)), found(step, "AN APPLE", ("APPLE",))
    assert priors(small) == pytest.approx(priors(large))


def test_capitals_of_a_common_word_are_doubted_unless_a_recogniser_saw_the_name(step):
    caption = "Stock Photo"
    (alias,) = found(step, caption, ("Stock", None, "alias"))
    (seen,) = found(step, caption, ("Stock", "PERSON", "ner+alias"))
    assert priors(alias)["stock"] < 0.5 < priors(seen)["stock"]


def test_mentions_keep_their_numbers_over_rows_with_and_without_any(step):
    batch = rows_of(
        ["Paris", "none", "Bermuda Paris"],
        mentions=[
            [mention("Paris", "Paris")],
            [],
            [mention("Bermuda Paris", "Bermuda"), mention("Bermuda Paris", "Paris")],
        ],
    )
    rows = step(batch)["candidates"].to_pylist()
    assert [[(c["mention"], c["entity_id"]) for c in row or []] for row in rows] == [
        [(0, "paris")],
        [],
        [(0, "bermuda"), (1, "paris")],
    ]


def test_rejected_rows_pass_untouched(step):
    paris = [mention("Paris", "Paris")]
    batch = reject(rows_of(["Paris", "Paris"], mentions=[paris, paris]), "source", [Reason.BAD_ROW, None])
    out = step(batch)
    assert out.slice(0, 1).equals(batch.slice(0, 1))
    assert out["candidates"][1].as_py()[0]["entity_id"] == "paris"


def test_a_knowledge_base_without_context_vectors_will_do(tmp_path):
    step = CandidatesConfig().build(build_kb(tmp_path, context=False))
    assert list(found(step, "Paris", ("Paris", None, "alias"))[0]) == ["paris"]


def test_a_missing_knowledge_base_is_refused(context, tmp_path):
    with pytest.raises(RaylabError, match="no knowledge base"):
        CandidatesConfig().build(type(context)(str(tmp_path), context.source))

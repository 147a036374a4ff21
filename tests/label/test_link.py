import pyarrow as pa
import pytest
from label.small_kb import build_kb, candidate, mention, rows_of

from raylab.errors import RaylabError
from raylab.label.candidates import CandidatesConfig
from raylab.label.link import LinkConfig
from raylab.schema import Reason, reject


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    return build_kb(tmp_path_factory.mktemp("kb"))


@pytest.fixture
def step(context):
    return LinkConfig().build(context)


def linked(context, caption, *mentions, **weights):
    """Run candidates and link over one caption; return the row."""
    batch = rows_of(
        [caption], mentions=[[mention(caption, *m) if isinstance(m, tuple) else mention(caption, m) for m in mentions]]
    )
    (row,) = LinkConfig(**weights).build(context)(CandidatesConfig().build(context)(batch)).to_pylist()
    return row


def best(row, number=0):
    return max((c for c in row["candidates"] if c["mention"] == number), key=lambda c: c["link_score"])["entity_id"]


def test_without_context_the_likeliest_bearer_of_the_name_wins(context):
    assert best(linked(context, "Hamilton", "Hamilton")) == "hamilton-city"


def test_words_around_the_mention_decide(context):
    assert best(linked(context, "Hamilton, Secretary of the Treasury", "Hamilton")) == "hamilton-man"
    assert best(linked(context, "Hamilton on the island of Bermuda", "Hamilton")) == "hamilton-city"


def test_other_mentions_decide(context):
    flags = {"words": 0.0, "keywords": 0.0}
    assert (
        best(linked(context, "Hamilton and Jefferson", "Hamilton", "Jefferson", coherence=8.0, **flags))
        == "hamilton-man"
    )
    assert (
        best(linked(context, "Hamilton and Jefferson", "Hamilton", "Jefferson", coherence=0.0, **flags))
        == "hamilton-city"
    )


def test_words_of_the_mention_itself_are_no_context(context):
    row = linked(context, "Hamilton Hamilton", "Hamilton", prior=0.0)
    alone = linked(context, "Hamilton", "Hamilton", prior=0.0)
    film = {c["entity_id"]: c["link_score"] for c in alone["candidates"]}
    assert film["hamilton-city"] == pytest.approx(film["hamilton-film"], abs=0.01)
    assert row["candidates"] is not None


def test_the_recognisers_type_counts(context):
    neutral = linked(context, "Hamilton", "Hamilton")
    person = linked(context, "Hamilton", ("Hamilton", "PERSON"), clash=5.0)
    assert best(neutral) == "hamilton-city" and best(person) == "hamilton-man"
    assert best(linked(context, "Hamilton", ("Hamilton", "PRODUCT"), clash=5.0)) == "hamilton-city"


def test_scores_are_probabilities_and_none_of_these_keeps_what_priors_leave(step):
    sure = [candidate("paris", 0, 1.0)]
    weak = [candidate("paris", 0, 0.05), candidate("bermuda", 0, 0.05)]
    mentions = [[mention("Paris", "Paris")]] * 2
    rows = step(rows_of(["Paris", "Paris"], mentions=mentions, candidates=[sure, weak])).to_pylist()
    assert rows[0]["candidates"][0]["link_score"] == pytest.approx(1)
    assert 0 < sum(c["link_score"] for c in rows[1]["candidates"]) < 0.2
    assert rows[0]["link_score"] > rows[1]["link_score"]


def test_a_rows_answer_is_its_most_salient_certain_mention(context):
    row = linked(context, "Eiffel Tower in Paris with a candle", "Eiffel Tower", "Paris", "candle")
    assert row["link_entity_id"] == "eiffel" and 0.9 < row["link_score"] <= 1
    row = linked(context, "a candle in Paris", "candle", "Paris")
    assert row["link_entity_id"] == "paris"


def test_capitals_do_not_make_a_name_of_a_common_word(context):
    captions = ["Stock Photo Of Paris", "stock photo of paris"]
    for caption in captions:
        row = linked(context, caption, caption[:5], caption[-5:], common_word=0.1)
        assert row["link_entity_id"] == "paris"


def test_neighbours_take_part_as_the_whole_caption(step):
    near = [candidate("paris", -1, 0.9, "neighbour"), candidate("bermuda", -1, 0.5, "neighbour")]
    (row,) = step(rows_of(["a city of light"], mentions=[[]], candidates=[near])).to_pylist()
    assert row["link_entity_id"] == "paris" and 0 < row["link_score"] < 0.6
    assert row["candidates"][0]["link_score"] > row["candidates"][1]["link_score"]


def test_names_come_before_neighbours(step):
    both = [candidate("paris", 0, 1.0), candidate("bermuda", -1, 0.9, "neighbour")]
    (row,) = step(rows_of(["Paris"], mentions=[[mention("Paris", "Paris")]], candidates=[both])).to_pylist()
    assert row["link_entity_id"] == "paris"


def test_a_row_without_candidates_is_rejected_with_a_reason(step):
    out = step(rows_of(["none", "none"], mentions=[[], None], candidates=[[], None])).to_pylist()
    assert {(row["reject_step"], row["reject_reason"]) for row in out} == {("link", Reason.NO_CANDIDATES)}
    assert {row["link_entity_id"] for row in out} == {None}


def test_rejected_rows_pass_untouched(step):
    columns = {"mentions": [[mention("Paris", "Paris")]] * 2, "candidates": [[candidate("paris", 0, 1.0)]] * 2}
    batch = reject(rows_of(["Paris", "Paris"], **columns), "source", [Reason.BAD_ROW, None])
    out = step(batch)
    assert out.slice(0, 1).equals(batch.slice(0, 1))
    assert out["link_entity_id"].to_pylist() == [None, "paris"]


def test_the_order_of_rows_in_a_batch_does_not_matter(context):
    captions = ["Hamilton and Jefferson", "Paris", "none", "Hamilton, Bermuda"]
    mentions = [
        [mention(c, word) for word in ("Hamilton", "Jefferson", "Paris", "Bermuda") if word in c] for c in captions
    ]
    batch = rows_of(captions, mentions=mentions)
    run = lambda table: LinkConfig().build(context)(CandidatesConfig().build(context)(table))  # noqa: E731
    whole, single = run(batch), pa.concat_tables([run(batch.slice(i, 1)) for i in range(4)])
    assert whole["link_entity_id"].to_pylist() == single["link_entity_id"].to_pylist()
    assert whole["link_score"].to_pylist()[:2] == pytest.approx(single["link_score"].to_pylist()[:2], abs=1e-5)


def test_a_knowledge_base_without_context_vectors_is_refused(tmp_path):
    with pytest.raises(RaylabError, match="built without context vectors"):
        LinkConfig().build(build_kb(tmp_path, context=False))

import sys

import pyarrow as pa
import pytest
import spacy
from label.small_kb import build_kb, rows_of

from raylab.errors import RaylabError
from raylab.label.mentions import Mentions, MentionsConfig, Spans, join
from raylab.schema import Reason, reject


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    return build_kb(tmp_path_factory.mktemp("kb"))


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A pipeline on disk that recognises what its rules say, behind a component that nobody needs."""
    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    rules = nlp.add_pipe("entity_ruler")
    patterns = {
        "the Eiffel Tower": "FAC",
        "Bermuda's": "GPE",
        "Zebulon Jefferson": "PERSON",
        "Visit Paris": "ORG",
        "Thomas": "PERSON",
        "1999": "DATE",
        "Zork": "ORG",
    }
    rules.add_patterns([{"label": label, "pattern": text} for text, label in patterns.items()])
    folder = tmp_path_factory.mktemp("spacy") / "rules"
    nlp.to_disk(folder)
    return str(folder)


def found(step, *captions):
    rows = step(rows_of(captions))["mentions"].to_pylist()
    return [[(m["text"], m["label"], m["source"]) for m in row] for row in rows]


@pytest.fixture
def aliases(context):
    return MentionsConfig(aliases_only=True).build(context)


@pytest.fixture
def joined(context, pipeline):
    return MentionsConfig(spacy=pipeline).build(context)


def test_aliases_are_found_with_offsets_of_characters(aliases):
    caption = "É 🎈 Paris, the Eiffel Tower"
    (mentions,) = aliases(rows_of([caption]))["mentions"].to_pylist()
    assert [m["text"] for m in mentions] == ["Paris", "Eiffel Tower"]
    assert all(caption[m["start"] : m["end"]] == m["text"] for m in mentions)
    assert {(m["label"], m["source"]) for m in mentions} == {(None, "alias")}


def test_captions_without_a_name_have_an_empty_list(aliases):
    assert aliases(rows_of(["", None, "nothing here"]))["mentions"].to_pylist() == [[], [], []]


def test_the_alias_index_alone_needs_no_spacy(aliases, monkeypatch, context):
    monkeypatch.setitem(sys.modules, "spacy", None)
    assert found(MentionsConfig(aliases_only=True).build(context), "Paris") == [[("Paris", None, "alias")]]


def test_an_equal_span_is_one_mention_of_both(joined):
    assert found(joined, "We saw the Eiffel Tower") == [[("Eiffel Tower", "FAC", "ner+alias")]]


def test_recognised_spans_lose_determiner_and_possessive(joined):
    assert found(joined, "Bermuda's beaches") == [[("Bermuda", "GPE", "ner+alias")]]


def test_a_known_surname_in_an_unknown_person_is_somebody_else(joined):
    assert found(joined, "Zebulon Jefferson") == [[("Zebulon Jefferson", "PERSON", "ner")]]


def test_a_known_name_in_a_longer_span_of_another_type_stays(joined):
    assert found(joined, "Visit Paris") == [[("Visit Paris", "ORG", "ner"), ("Paris", None, "alias")]]


def test_a_longer_alias_swallows_what_was_recognised_in_it(joined):
    assert found(joined, "Thomas Jefferson") == [[("Thomas Jefferson", None, "alias")]]


def test_labels_that_name_no_entity_are_skipped(joined, context, pipeline):
    assert found(joined, "Zork 1999") == [[("Zork", "ORG", "ner")]]
    every = MentionsConfig(spacy=pipeline, skip_labels=()).build(context)
    assert [text for text, *_ in found(every, "Zork 1999")[0]] == ["Zork", "1999"]


def test_mentions_beyond_the_most_are_cut_off(context):
    step = MentionsConfig(aliases_only=True, max_mentions=2).build(context)
    assert found(step, "Paris Bermuda Paris Bermuda") == [[("Paris", None, "alias"), ("Bermuda", None, "alias")]]


def test_rejected_rows_pass_untouched(joined):
    batch = reject(rows_of(["Paris", "Paris"]), "source", [Reason.BAD_ROW, None])
    out = joined(batch)
    assert out.slice(0, 1).equals(batch.slice(0, 1))
    assert len(out["mentions"][1].as_py()) == 1


def test_the_row_says_which_pipeline_and_knowledge_base_were_used(joined, pipeline, context):
    (note,) = joined(rows_of(["Paris"]))["models"][0].as_py()
    assert note["step"] == "mentions"
    assert note["model"].startswith("spacy:en_pipeline-0.0.0@")
    assert " kb@" in note["model"]
    again = MentionsConfig(spacy=pipeline).build(context)(rows_of(["Paris"]))["models"][0].as_py()
    assert again == [note]


def test_components_that_recognition_does_not_need_are_removed(joined):
    assert joined._recogniser._nlp.component_names == ["entity_ruler"]


def test_a_missing_pipeline_says_how_to_get_one(context):
    with pytest.raises(RaylabError, match=r"python -m spacy download en_none_such.*mentions\.aliases_only"):
        MentionsConfig(spacy="en_none_such").build(context)


def test_a_pipeline_that_recognises_nothing_is_refused(context, tmp_path):
    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    nlp.to_disk(tmp_path / "plain")
    with pytest.raises(RaylabError, match="recognises no entities"):
        MentionsConfig(spacy=str(tmp_path / "plain")).build(context)


def test_a_missing_knowledge_base_is_refused(context, tmp_path):
    with pytest.raises(RaylabError, match="no knowledge base"):
        MentionsConfig(aliases_only=True).build(type(context)(str(tmp_path), context.source))


def spans(source, *given):
    import numpy as np

    rows = np.array([[0, start, end] for start, end, _ in given], np.int64).reshape(-1, 3)
    labels = np.array([label for *_, label in given], object)
    return Spans(*rows.T, labels, np.array([source] * len(given), object))


@pytest.mark.parametrize(
    ("ner", "alias", "kept"),
    [
        ([], [], []),
        ([(0, 4, "ORG")], [], [(0, 4, "ner")]),
        ([(0, 4, "ORG")], [(5, 9, None)], [(0, 4, "ner"), (5, 9, "alias")]),
        ([(0, 4, "ORG")], [(0, 4, None)], [(0, 4, "ner+alias")]),
        ([(0, 6, "ORG")], [(4, 8, None)], [(0, 6, "ner")]),
        ([(0, 6, "ORG")], [(4, 12, None)], [(4, 12, "alias")]),
        ([(0, 4, "ORG")], [(2, 6, None)], [(2, 6, "alias")]),
        ([(0, 9, "ORG")], [(0, 4, None), (5, 9, None)], [(0, 9, "ner"), (0, 4, "alias"), (5, 9, "alias")]),
        ([(0, 9, "PERSON")], [(0, 4, None), (5, 9, None)], [(0, 9, "ner")]),
        ([(0, 4, "PERSON"), (5, 9, "ORG")], [(0, 9, None)], [(0, 9, "alias")]),
        ([(0, 9, "PERSON"), (10, 12, "ORG")], [(8, 12, None)], [(0, 9, "ner"), (10, 12, "ner")]),
    ],
)
def test_spans_that_meet(ner, alias, kept):
    result = join(spans("ner", *ner), spans("alias", *alias))
    assert list(zip(result.start.tolist(), result.end.tolist(), result.source.tolist())) == kept


def test_spans_of_different_captions_never_meet():
    ner, alias = spans("ner", (0, 4, "ORG")), spans("alias", (0, 4, None))
    result = join(ner, alias._replace(row=alias.row + 1))
    assert result.row.tolist() == [0, 1] and result.source.tolist() == ["ner", "alias"]


def test_the_mention_type_is_the_schemas(joined):
    out = joined(rows_of(["Paris"]))
    assert out.schema.equals(rows_of([]).schema)
    assert isinstance(joined, Mentions) and out["mentions"].type == pa.list_(
        out.schema.field("mentions").type.value_type
    )

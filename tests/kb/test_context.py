import json

import numpy as np
import pyarrow as pa
import pytest

from raylab.errors import RaylabError
from raylab.kb.context import DIMS, INT8_SCALE, KEYWORDS, NO_WORD, RECORD, ContextSpace, tokens
from raylab.kb.kinds import Kind, kinds_of
from raylab.schema import ENTITY

WORDS = {"music": "guitar band album song singer", "sport": "football league goal player striker"}


def entities(*rows):
    given = [{"id": str(i), "title": f"T{i}"} | row for i, row in enumerate(rows)]
    return pa.Table.from_pylist([{f.name: row.get(f.name) for f in ENTITY} for row in given], schema=ENTITY)


@pytest.fixture(scope="module")
def topics():
    """Forty entities of two topics; each knows three of its topic's five words."""
    random = np.random.default_rng(0)
    return entities(
        *(
            {"description": " ".join(random.choice(WORDS[topic].split(), 3, replace=False)), "types": [f"Q{topic}"]}
            for topic in WORDS
            for _ in range(20)
        )
    )


def test_tokens_are_words_of_any_alphabet_whatever_their_case():
    found = tokens(pa.array(["Hello World", None, "", "hello,WORLD! Ünï 聖"]))
    assert found.row.tolist() == [0, 0, 3, 3, 3, 3]
    assert found.key[:2].tolist() == found.key[2:4].tolist()
    assert len(set(found.key.tolist())) == 4
    assert found.lower.tolist() == [False, False, True, False, False, False]


def test_tokens_of_a_slice_and_of_chunks_are_those_of_the_strings():
    texts = pa.array(["one", "two three", "four"])
    assert tokens(texts.slice(1)).key.tolist() == tokens(pa.array(["two three", "four"])).key.tolist()
    chunks = pa.chunked_array([["one"], ["two three", "four"]])
    assert tokens(chunks).key.tolist() == tokens(texts).key.tolist()
    assert tokens(chunks).row.tolist() == [0, 1, 1, 2]


def test_words_never_join_over_the_end_of_a_text():
    assert len(tokens(pa.array(["ab", "cd"])).key) == 2


@pytest.mark.parametrize("texts", [[], [None], ["", "!?"]])
def test_texts_without_words_have_no_tokens(texts):
    assert len(tokens(pa.array(texts, pa.string())).key) == 0


def test_vectors_put_a_topic_together_and_captions_beside_it(topics):
    space = ContextSpace.fit(topics)
    vectors = space.encode_entities(topics)["vector"] / INT8_SCALE
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=0.1)
    likeness = vectors @ vectors.T
    assert likeness[:20, :20].mean() > 0.3 > likeness[:20, 20:].mean()
    caption = space.centre(space.sums(space.words(pa.array(["a singer and her guitar"]))))
    assert (caption @ vectors[:20].T).mean() > 0.2 > (caption @ vectors[20:].T).mean()


def test_a_text_of_unknown_words_is_the_null_vector(topics):
    space = ContextSpace.fit(topics)
    vector = space.centre(space.sums(space.words(pa.array(["zzz", None]))))
    assert vector.shape == (2, DIMS) and not vector.any()


def test_keywords_are_the_rarest_words_of_the_definition_and_not_of_the_name():
    rows = entities(
        *({"description": "common word"} for _ in range(5)), {"title": "Name", "description": "common rare"}
    )
    space = ContextSpace.fit(rows)
    records = space.encode_entities(rows)
    words = space.words(pa.array(["rare", "common", "name"])).word.tolist()
    assert records["keywords"][5].tolist() == [*words[:2], *[NO_WORD] * (KEYWORDS - 2)]


def test_a_long_definition_keeps_as_many_keywords_as_there_is_room_for():
    rows = entities({"description": " ".join(f"w{i}" for i in range(30))}, {"description": None})
    records = ContextSpace.fit(rows).encode_entities(rows)
    assert (records["keywords"][0] != NO_WORD).all() and (records["keywords"][1] == NO_WORD).all()


def test_a_word_written_small_in_definitions_is_common():
    rows = entities(*({"description": "lives in Paris on stock"} for _ in range(9)))
    texts = pa.array(["Stock", "Paris", "two words", "unknown", ""])
    common = ContextSpace.fit(rows).common(tokens(texts), len(texts))
    assert common[0] == pytest.approx(0.9) and common[1:].tolist() == [0, 0, 0, 0]


def test_the_same_sample_gives_the_same_space(topics):
    first, second = ContextSpace.fit(topics), ContextSpace.fit(topics)
    assert first.encode_entities(topics).tobytes() == second.encode_entities(topics).tobytes()


@pytest.mark.parametrize("rows", [[{"title": "Solo"}], [{"title": "!!!"}], [{"title": "A"}, {"title": "B"}]])
def test_a_tiny_knowledge_base_has_a_space_too(rows):
    table = entities(*rows)
    assert len(ContextSpace.fit(table).encode_entities(table)) == len(rows)


def test_entity_rows_are_encoded_alike_whole_and_in_batches(topics):
    space = ContextSpace.fit(topics)
    parts = [space.encode_entities(batch) for batch in topics.to_batches(max_chunksize=7)]
    assert np.concatenate(parts).tobytes() == space.encode_entities(topics).tobytes()


def test_a_saved_space_opens_mapped_with_its_entities(topics, tmp_path):
    space = ContextSpace.fit(topics)
    space.save(tmp_path)
    records = ContextSpace.create_entities(tmp_path, topics.num_rows)
    records[:] = space.encode_entities(topics)
    records.flush()
    opened = ContextSpace.open(tmp_path)
    assert isinstance(opened.entities, np.memmap) and opened.entities.dtype == RECORD
    assert opened.entities.tobytes() == space.encode_entities(topics).tobytes()
    assert (
        opened.sums(opened.words(pa.array(["guitar"]))).tolist()
        == space.sums(space.words(pa.array(["guitar"]))).tolist()
    )


@pytest.mark.parametrize("damage", ["missing", "cut", "other format"])
def test_a_space_that_cannot_be_read_is_one_clear_error(topics, tmp_path, damage):
    ContextSpace.fit(topics).save(tmp_path)
    ContextSpace.create_entities(tmp_path, 1)
    if damage == "missing":
        (tmp_path / "vectors.npy").unlink()
    elif damage == "cut":
        (tmp_path / "vectors.npy").write_bytes((tmp_path / "vectors.npy").read_bytes()[:200])
    else:
        (tmp_path / "context.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(RaylabError, match="build the KB again"):
        ContextSpace.open(tmp_path)


def test_kinds_come_from_the_closed_types():
    types = pa.array([["Q5"], ["Q515", "Q486972"], ["Q11424"], ["Qx"], None, [], ["Q5", "Q43229"]])
    both = Kind.PERSON | Kind.ORGANISATION
    assert kinds_of(types).tolist() == [Kind.PERSON, Kind.PLACE, Kind.WORK, 0, 0, 0, both]
    assert kinds_of(types.slice(1, 2)).tolist() == [Kind.PLACE, Kind.WORK]
    assert kinds_of(pa.array([], pa.list_(pa.string()))).tolist() == []

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raylab.kb.aliases import AliasIndex
from raylab.kb.catalog import Catalog
from raylab.kb.normalise import Folding
from raylab.kb.owners import build_index, owners_of
from raylab.kb.records import RAW


def found(kb: Catalog, caption: str) -> list[str]:
    matches = kb.aliases.match(pa.array([caption]))
    return [caption[start:end] for start, end in zip(matches.start, matches.end)]


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("Obama in Paris", ["Obama", "Paris"]),
        ("Barack Obama's visit to Paris, Texas", ["Barack Obama", "Paris, Texas"]),
        ("a view of paris at night, No. 5", []),  # the caption has capitals, so paris is no name
        ("a view of paris at night", ["paris"]),  # it has none, so case says nothing
        ("PARIS AT NIGHT", ["PARIS"]),
        ("PARIS at night", ["PARIS"]),
        ("He was reading a book", []),
        ("Reading station", ["Reading"]),
        ("give us a US flag", ["US"]),
        ("Us and them in the U.S. today", ["U.S"]),
        ("GIVE US A FLAG", []),
        ("A coffee table and a Coffee Table", ["coffee table", "Coffee Table"]),
        ("cold Coca-Cola, Coca Cola, CocaCola", ["Coca-Cola", "Coca Cola", "CocaCola"]),
        ("I may be late, Maybe", ["Maybe"]),
        ("I may be late, Bob", []),
        ("we met the who and The Who", ["The Who"]),
        ("#VisitNewYork #newyork @NYC", ["NewYork", "newyork", "NYC"]),
        ("#VisitNewYorkCity", ["NewYorkCity"]),
        ("learn C++ or AT&T", ["C++", "AT&T"]),
        ("by J.K. Rowling and JK Rowling", ["J.K. Rowling", "JK Rowling"]),
        ("SAO PAULO", ["SAO PAULO"]),
        ("Sa\u0303o Paulo", ["Sa\u0303o Paulo"]),
        ("ようこそサンパウロへ", ["サンパウロ"]),
        ("O'Paris and Don't Paris't", []),
        ("Night in Paris. Texas is big", ["Paris"]),
        ("Paris | Texas", ["Paris"]),
        ("I'm here on the 1st", []),
        ("Simmons, SIMMONS and simmons", ["Simmons", "SIMMONS"]),
        ("an old simmons bed", []),
    ],
)
def test_match_reads_names_as_a_reader_would(kb: Catalog, caption: str, expected: list[str]) -> None:
    assert found(kb, caption) == expected


def test_offsets_count_characters_after_astral_and_combining_ones(kb: Catalog) -> None:
    captions = ["🎉🎉 ﬁne e\u0301 Paris", None, "", "日本 Obama"]
    matches = kb.aliases.match(pa.chunked_array([captions[:1], captions[1:]], pa.string()))
    texts = [captions[row][start:end] for row, start, end in zip(matches.row, matches.start, matches.end)]
    assert texts == ["Paris", "Obama"]
    assert matches.row.tolist() == [0, 3]


def test_match_of_a_slice_counts_rows_from_its_start(kb: Catalog) -> None:
    matches = kb.aliases.match(pa.array(["Obama", "Paris", "x"])[1:])
    assert matches.row.tolist() == [0]


def test_nothing_to_match(kb: Catalog) -> None:
    for captions in (pa.array([], pa.string()), pa.array([None, ""], pa.string()), pa.chunked_array([], pa.string())):
        assert len(kb.aliases.match(captions).row) == 0
    assert kb.aliases.lookup([]).tolist() == []


def test_a_million_characters_in_one_caption(kb: Catalog) -> None:
    caption = "x " * 499_990 + "Paris" + " y" * 100
    matches = kb.aliases.match(pa.array(["Obama", caption, "Obama"]))
    assert matches.row.tolist() == [0, 1, 2]
    assert caption[matches.start[1] : matches.end[1]] == "Paris"


def test_lookup_ignores_case_accents_and_gaps(kb: Catalog) -> None:
    numbers = kb.aliases.lookup(["sao paulo", "São-Paulo", "SAOPAULO", "nowhere", "", "!?"])
    assert len(set(numbers[:3].tolist())) == 1
    assert numbers[:3].min() >= 0
    assert numbers[3:].tolist() == [-1, -1, -1]


def test_candidates_come_with_priors_likeliest_first(kb: Catalog) -> None:
    indptr, rows, priors, partial, title, _ = kb.aliases.candidates(kb.aliases.lookup(["Paris", "Simmons"]))
    assert indptr.tolist() == [0, 2, 3]
    assert kb.take(rows)["id"].to_pylist() == ["Q1", "Q2", "Q4"]
    assert np.add.reduceat(priors, indptr[:-1]) == pytest.approx(1)
    assert priors[0] > 0.9
    assert partial.tolist() == [False, False, True]
    assert title.tolist() == [True, False, False]


def test_no_candidates_of_no_alias(kb: Catalog) -> None:
    empty = kb.aliases.candidates(np.zeros(0, np.int64))
    assert empty.indptr.tolist() == [0]
    assert len(empty.entity_rows) == len(empty.priors) == 0


# ------------------------------------------------------------------------------------- against a slow reading by words

FOLDING = Folding.make()
WORDS = ["ab", "abc", "cab", "ba", "zurich", "bcd"]
GAPS = [" ", "-", "/", ", ", " - "]
phrase = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4)
text = st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from(GAPS)), max_size=12)


def index_of(aliases: list[str]) -> AliasIndex:
    rows = [{"id": f"Q{i}", "title": alias, "aliases": []} for i, alias in enumerate(aliases)]
    owners = owners_of(pa.Table.from_pylist(rows, RAW), np.zeros(len(rows), bool), FOLDING)
    return build_index(owners, np.zeros(len(rows), np.float32), FOLDING, 64)[0]


def slow_match(caption: str, aliases: list[str]) -> list[tuple[int, int]]:
    """Leftmost longest runs of words whose letters are an alias's, and whose gaps can be read like the alias's."""
    words = [(m.start(), m.end()) for m in re.finditer(r"[a-z]+", caption)]
    at, spans = 0, []
    while at < len(words):
        for size in range(min(8, len(words) - at), 0, -1):
            start, end = words[at][0], words[at + size - 1][1]
            if any(same(caption[start:end], alias) for alias in aliases):
                spans.append((start, end))
                at += size
                break
        else:
            at += 1
    return spans


def same(one: str, other: str) -> bool:
    if re.sub("[^a-z]", "", one) != re.sub("[^a-z]", "", other):
        return False
    least, most = zip(*(counts(text) for text in (one, other)))
    return max(least) <= min(most)


def counts(text: str) -> tuple[int, int]:
    gaps = re.findall("[^a-z]+", text)
    return 1 + sum(" " in gap for gap in gaps), 1 + len(gaps)


@settings(max_examples=100, deadline=None)
@given(captions=st.lists(text, max_size=5), aliases=st.lists(phrase, min_size=1, max_size=8))
def test_match_agrees_with_a_slow_reading(captions: list[list[tuple[str, str]]], aliases: list[list[str]]) -> None:
    names = [" ".join(words) for words in aliases]
    texts = ["".join(word + gap for word, gap in caption) for caption in captions]
    matches = index_of(names).match(pa.array(texts, pa.string()))
    expected = [(row, *span) for row, caption in enumerate(texts) for span in slow_match(caption, names)]
    assert list(zip(matches.row.tolist(), matches.start.tolist(), matches.end.tolist())) == expected


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(names=st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=4), gap=st.sampled_from(["", " ", " x "]))
def test_any_unicode_has_sound_offsets(names: list[str], gap: str) -> None:
    index = index_of(names)
    caption = gap.join(names)
    matches = index.match(pa.array([caption, caption]))
    for start, end, alias in zip(matches.start, matches.end, matches.alias):
        assert 0 <= start < end <= len(caption)
        assert index.lookup([caption[start:end]])[0] == alias
    assert (index.lookup(names) >= 0).sum() >= len([name for name in names if name.isalnum()])

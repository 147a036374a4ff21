from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from raylab.kb.hashing import HashIndex, hash_strings
from raylab.kb.normalise import Chunk, Folding, fold, read

FOLDING = Folding.make()


def read_one(*texts: str) -> Chunk:
    (chunk,) = read(pa.array(texts), FOLDING)
    return chunk


def words(text: str) -> list[str]:
    tokens = read_one(text).tokens
    return [text[start:end] for start, end in zip(tokens.start, tokens.end)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ærøskøbing", "aeroskobing"),
        ("Straße", "strasse"),
        ("ﬁne ½ ｆｕｌｌ", "fine12full"),
        ("İstanbul", "istanbul"),
        ("Łódź & Þór", "lodzandthor"),
        ("Ελλάς", "ελλασ"),
        ("東京!", "東京"),
    ],
)
def test_fold(text: str, expected: str) -> None:
    assert fold(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Coca-Cola's 2nd e\u0301te\u0301", ["Coca", "Cola", "s", "2nd", "e\u0301te\u0301"]),
        ("C++ #Go AT&T", ["C", "+", "+", "#", "Go", "AT", "&", "T"]),
        ("iPhone6 #HelloWorld #NYCMarathon", ["iPhone6", "#", "Hello", "World", "#", "NYC", "Marathon"]),
        ("東京 café☕", ["東", "京", "café", "☕"]),
        ("\u0301 \u200b —", []),
    ],
)
def test_tokens(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_the_hash_sees_folded_letters_and_no_gaps() -> None:
    tokens = read_one("SÃO-PAULO", "sao paulo", "sa\u0303opaulo", "saopaula").tokens
    runs = [np.flatnonzero(tokens.text == text)[[0, -1]] for text in range(4)]
    hashes = tokens.hash(*np.array(runs).T)
    assert len(set(hashes[:3].tolist())) == 1
    assert hashes[3] != hashes[0]


def test_texts_of_any_length_read_the_same_in_chunks() -> None:
    texts = ["Paris " * 30_000, "", "Lyon", "x" * 300_000, "Zürich " * 5]
    chunks = list(read(pa.array(texts), FOLDING))
    assert len(chunks) > 1
    seen = [
        (chunk.first + text, start - chunk.starts[text])
        for chunk in chunks
        for text, start in zip(chunk.tokens.text, chunk.tokens.start)
    ]
    expected = [(row, found.start()) for row, text in enumerate(texts) for found in re.finditer(r"\w+", text)]
    assert seen == expected


def test_tables_come_back_from_disk(tmp_path: Path) -> None:
    FOLDING.save(tmp_path)
    again = Folding.open(tmp_path)
    assert all((getattr(again, name) == getattr(FOLDING, name)).all() for name in ("kind", "step", "value"))


def test_an_index_finds_every_key_and_no_other() -> None:
    rng = np.random.default_rng(0)
    keys = np.unique(rng.integers(0, 2**64, 10_000, dtype=np.uint64))
    index = HashIndex.of(keys)
    assert (index.find(keys) == np.arange(len(keys))).all()
    assert (index.find(rng.integers(0, 2**64, 1_000, dtype=np.uint64)) == -1).all()
    assert (HashIndex.of(np.zeros(0, np.uint64)).find(keys) == -1).all()


def test_string_hashes_do_not_depend_on_the_batch() -> None:
    whole = hash_strings(pa.array(["a", "", "Q42", "é", "ab"]))
    assert hash_strings(pa.array(["x", "Q42", "é"])[1:]).tolist() == whole[2:4].tolist()
    assert hash_strings(pa.chunked_array([["a"], [""], ["Q42"]])).tolist() == whole[:3].tolist()
    assert len(set(whole.tolist())) == 5

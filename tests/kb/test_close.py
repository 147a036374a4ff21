import json
import logging
import multiprocessing
import unicodedata
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kb.small_catalogue import ROWS, write_rows
from rapidfuzz import fuzz

from raylab.errors import RaylabError
from raylab.kb import close, close_build
from raylab.kb.build import BuildConfig, build
from raylab.kb.catalog import Catalog
from raylab.kb.close import CloseIndex, figures
from raylab.kb.close_build import triples


@pytest.fixture
def catalog(tmp_path) -> Catalog:
    rows = write_rows(tmp_path / "rows.jsonl", ROWS)
    build(BuildConfig(out=str(tmp_path / "kb"), catalogues=(rows,), workers=1, context=False))
    return Catalog.open(tmp_path / "kb")


def texts(index, name, least=0.8):
    return [unicodedata.normalize("NFC", one.text) for one in index.near([name], least)[0] if one.likeness >= least]


def test_names_near_a_name_come_likest_first_with_their_alias(catalog):
    index = CloseIndex.open(catalog)
    (found,) = index.near(["New Yrok City!"], 0.8)
    assert found[0].text == "new york city"
    assert found[0].likeness == pytest.approx(fuzz.ratio("new yrok city", "new york city") / 100)
    assert found[0].alias == catalog.aliases.lookup(["New York City"])[0]
    assert [one.likeness for one in found] == sorted((one.likeness for one in found), reverse=True)
    assert texts(index, "Sao Paolo") == ["sao paulo"]
    assert texts(index, "サンパウ") == ["サンパウロ"]
    assert texts(index, "maybe song")[0] == "maybe song"
    assert texts(index, "maibe") == ["maybe"]


def test_what_is_too_short_too_long_or_unlike_everything_is_near_nothing(catalog):
    index = CloseIndex.open(catalog)
    assert index.near(["", "C++", "NYC", "x" * 81, "qqqq wwww zzzz", "\x00"], 0.8) == [[]] * 6
    assert index.near([], 0.8) == []
    for least in (0.0, 0.1, 1.0, 1.5):
        assert index.near(["Coca Cola"], least)[0][:1] in ([], [index.near(["Coca Cola"], 0.8)[0][0]])


def test_figures_and_numerals_tell_names_apart():
    assert figures("boeing 737 800") == figures("boing 737800") != figures("boeing 747 800")
    assert figures("henry viii") != figures("henry vii")
    assert figures("liv tyler") == figures("lib tyler")


def test_the_index_is_made_once_and_again_for_another_knowledge_base(catalog, tmp_path, caplog):
    caplog.set_level(logging.INFO, "raylab.kb.close_build")
    for _ in range(2):
        CloseIndex.open(catalog)
    assert caplog.text.count("indexed") == 1
    place = catalog.path / "close"
    said = json.loads((place / "close.json").read_text())
    (place / "close.json").write_text(json.dumps(said | {"kb_fingerprint": "another"}))
    assert texts(CloseIndex.open(catalog), "Cofee table") == ["coffee table"]
    (place / "postings.npy").write_bytes(b"cut")
    CloseIndex.open(catalog)
    assert caplog.text.count("indexed") == 3
    other = CloseIndex.open(catalog, tmp_path / "elsewhere" / "close")
    assert len(other) == len(CloseIndex.open(catalog)) > 10
    assert not list(catalog.path.glob("*.part"))


def test_every_triple_of_every_surface_is_posted_whatever_the_block(catalog, monkeypatch, tmp_path):
    whole = CloseIndex.open(catalog)
    monkeypatch.setattr(close_build, "_BLOCK", 7)
    monkeypatch.setattr(close_build, "_ROWS", 3)
    pieces = CloseIndex.open(catalog, tmp_path / "close")
    for name in ("_letters", "_starts", "_aliases", "_bounds", "_indptr", "_postings"):
        assert (getattr(whole, name) == getattr(pieces, name)).all(), name
    for number in range(len(whole)):
        text = whole._text(number)
        for triple in triples(np.frombuffer(text.encode(), np.uint8)).tolist():
            assert number in whole._postings[whole._indptr[triple] : whole._indptr[triple + 1]]


def test_a_build_that_breaks_off_leaves_nothing(catalog, monkeypatch):
    def broken(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(close_build, "_postings", broken)
    with pytest.raises(RaylabError, match=r"No space left.*--answers.close-match 2"):
        CloseIndex.open(catalog)
    assert not list(catalog.path.glob("close*/"))


def _open(path: str) -> int:
    return len(CloseIndex.open(Catalog.open(path)))


def test_processes_that_come_at_once_build_it_once(catalog):
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        assert len(set(pool.map(_open, [str(catalog.path)] * 6))) == 1
    assert {one.name for one in catalog.path.glob("close*")} <= {"close", "close.lock"}


@given(st.lists(st.integers(0, 30), max_size=80), st.integers(1, 12))
def test_the_most_frequent_numbers(numbers, count):
    found = close._most_frequent(np.array(numbers, np.uint32), count).tolist()
    times = Counter(numbers)
    assert found == sorted(sorted(times, key=lambda one: (-times[one], one))[:count])

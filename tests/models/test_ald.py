from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raylab.errors import RaylabError
from raylab.models.ald import LENGTH, AldCodes, AldConfig
from raylab.models.trie import Trie

SMALL = AldConfig(vocab=40, eos=2, reserved=(0, 1))
NAMES = st.lists(st.lists(st.integers(3, 12), max_size=6), max_size=30)


def test_a_worked_example():
    """Counts: 10 -> 3, 11 -> 2, 12 -> 2, the rest 1; equally rare tokens stay in the name's order."""
    names = [[10, 11, 20, 21], [10, 12], [11, 10, 12, 22, 23, 24]]
    codes = AldCodes.build(names, SMALL)
    assert codes.code_EL.tolist() == [[20, 21, 11, 2], [12, 10, 2, 2], [22, 23, 24, 2]]


def test_a_taken_code_gets_the_tokens_left_over_one_after_the_other():
    """All three share the rarest tokens 20, 21, 22 (2 x each counts, so that 10 to 14 are commoner)."""
    common = [[10, 11, 12, 13, 14]] * 6
    rare = [[20, 21, 22, 10], [20, 21, 22, 10, 11], [20, 21, 22, 10, 11, 12]]
    codes = AldCodes.build([*rare, *common], SMALL).code_EL[:3]
    assert (codes[:, :3] == [20, 21, 22]).all()
    last = codes[:, 3].tolist()
    assert last.count(SMALL.eos) == 1  # who came first kept its code
    assert len(set(last)) == 3
    second = [token for token in last if token != SMALL.eos]
    assert second[0] in (10, 11) and set(second) <= {10, 11, 12}


def test_a_short_name_that_is_taken_gets_a_random_token_behind_its_last():
    codes = AldCodes.build([[7], [7], [7]], SMALL).code_EL
    assert (codes[:, 0] == 7).all() and (codes[:, 2:] == SMALL.eos).all()
    assert sorted(codes[:, 1] == SMALL.eos) == [False, False, True]
    assert not set(codes[:, 1].tolist()) & set(SMALL.reserved)


def test_a_name_without_tokens_gets_a_code_too():
    codes = AldCodes.build([[], [3]], SMALL).code_EL
    assert codes[0, 0] != SMALL.eos and (codes[0, 1:] == SMALL.eos).all()


@given(NAMES)
@settings(deadline=None)
def test_every_entity_has_its_own_code_and_is_found_by_it(names):
    codes = AldCodes.build(names, SMALL)
    assert codes.code_EL.shape == (len(names), LENGTH)
    assert len({tuple(code) for code in codes.code_EL.tolist()}) == len(names)
    assert codes.entities(codes.code_EL).tolist() == list(range(len(names)))


@given(NAMES)
@settings(deadline=None)
def test_a_code_is_the_rarest_tokens_but_for_one_slot(names):
    count = Counter(token for name in names for token in name)
    for name, code in zip(names, AldCodes.build(names, SMALL).code_EL.tolist()):
        ranked = sorted(name, key=lambda token: count[token])
        slot = min(len(name), LENGTH - 1)
        assert code[:slot] == ranked[:slot]
        assert set(code[slot + 1 :]) <= {SMALL.eos}


@given(NAMES.filter(bool))
@settings(deadline=None)
def test_as_a_trie_the_codes_lead_to_their_entities(names):
    codes = AldCodes.build(names, SMALL)
    trie = Trie.build(codes.sequences(), SMALL.vocab, SMALL.eos, ends_at=LENGTH)
    assert trie.names == len(names) and len(trie.shadowed) == 0 and trie.steps <= LENGTH


def test_a_seed_decides():
    names = [[7, 8]] * 20
    first, again = (AldCodes.build(names, SMALL).code_EL for _ in range(2))
    other = AldCodes.build(names, AldConfig(vocab=40, eos=2, reserved=(0, 1), seed=1)).code_EL
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_codes_that_nobody_has_are_nobodys():
    codes = AldCodes.build([[7, 8], [9]], SMALL)
    wanted = [[8, 7, 2, 2], [7, 8, 2, 2], [7, 8, 2, 30], [9, 2, 9, 9], [2, 2, 2, 2]]
    assert codes.entities(np.array(wanted)).tolist() == [-1, 0, 0, 1, -1]
    assert AldCodes.build([], SMALL).entities(np.array(wanted)).tolist() == [-1] * 5


def test_saved_and_opened_they_are_the_same(tmp_path):
    codes = AldCodes.build([[7, 8], [9], [7, 8]], SMALL)
    codes.save(tmp_path / "codes")
    codes.save(tmp_path / "codes")
    opened = AldCodes.open(tmp_path / "codes")
    assert np.array_equal(opened.code_EL, codes.code_EL) and opened.config == SMALL
    assert opened.entities(codes.code_EL).tolist() == [0, 1, 2]
    with pytest.raises(RaylabError, match="cannot be opened"):
        AldCodes.open(tmp_path / "nothing")


def test_wrong_names_are_refused():
    with pytest.raises(RaylabError, match="entity 1 has token 2"):
        AldCodes.build([[3], [4, 2]], SMALL)
    with pytest.raises(RaylabError, match="entity 0 has token 40"):
        AldCodes.build([[40]], SMALL)
    with pytest.raises(RaylabError, match="too many names are alike"):
        AldCodes.build([[3, 4, 5]] * 60, SMALL)
    with pytest.raises(RaylabError, match="vocabulary of 70000"):
        AldConfig(vocab=70_000)

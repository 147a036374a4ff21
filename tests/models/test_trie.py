from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raylab.errors import RaylabError
from raylab.models.trie import Trie
from raylab.models.trie_build import gather

VOCAB, EOS = 12, 11
NAMES = st.lists(st.lists(st.integers(0, VOCAB - 2), max_size=5), min_size=1, max_size=40).filter(any)


def spelled(trie):
    """Return {tokens: name} by walking the trie node by node."""
    found, open_nodes = {}, [(0, ())]
    while open_nodes:
        node, tokens = open_nodes.pop()
        if trie.name[node] >= 0:
            found[tokens] = int(trie.name[node])
        for child in range(int(trie.first[node]), int(trie.first[node + 1])):
            open_nodes.append((child, (*tokens, int(trie.token[child]))))
    return found


@given(NAMES)
@settings(deadline=None)
def test_it_spells_exactly_the_names(names):
    trie = Trie.build(names, VOCAB, EOS)
    expected = {}
    for number, name in enumerate(names):
        if name:
            expected.setdefault(tuple(name), number)
    assert spelled(trie) == expected
    assert trie.names == len(expected) and trie.depth == max(map(len, names))


@given(NAMES)
@settings(deadline=None)
def test_names_that_are_left_out_are_reported(names):
    trie = Trie.build(names, VOCAB, EOS)
    inside = set(spelled(trie).values())
    left_out = dict(trie.shadowed.tolist())
    assert sorted([*inside, *left_out]) == list(range(len(names)))
    for name, instead in left_out.items():
        assert names[name] == (names[instead] if instead >= 0 else [])
        assert instead < name


@given(NAMES)
@settings(deadline=None)
def test_nodes_lie_breadth_first_and_children_by_token(names):
    trie = Trie.build(names, VOCAB, EOS)
    assert trie.level[0] == 0 and trie.level[-1] == trie.nodes == len(trie.token) - 1
    assert (np.diff(trie.first.numpy()) >= 0).all()
    for depth in range(trie.depth + 1):
        for node in range(trie.level[depth], trie.level[depth + 1]):
            children = range(int(trie.first[node]), int(trie.first[node + 1]))
            assert all(trie.level[depth + 1] <= child < trie.level[depth + 2] for child in children)
            tokens = [int(trie.token[child]) for child in children]
            assert tokens == sorted(set(tokens)) and len(tokens) <= trie.fan_out[depth]


@given(NAMES, st.data())
@settings(deadline=None)
def test_many_nodes_are_looked_up_at_once(names, data):
    trie = Trie.build(names, VOCAB, EOS)
    depth = data.draw(st.integers(0, trie.depth))
    inside = st.integers(int(trie.level[depth]), int(trie.level[depth + 1]) - 1)
    nodes = data.draw(st.lists(st.one_of(inside, st.just(trie.nobody)), min_size=1, max_size=6))
    expected = [list(range(int(trie.first[node]), int(trie.first[node + 1]))) for node in nodes]
    for width in {trie.fan_out[depth], 1}:
        found = trie.children(torch.tensor(nodes), width)
        assert found.shape == (len(nodes), width)
        assert [[child for child in row if child != trie.nobody] for row in found.tolist()] == [
            children[:width] for children in expected
        ]


def test_a_worked_example():
    trie = Trie.build([[3, 4], [3], [3, 4, 5], [], [3, 4], [6]], VOCAB, EOS)
    assert trie.first.tolist() == [1, 3, 4, 4, 5, 5, 5]
    assert trie.token.tolist() == [-1, 3, 6, 4, 5, -1]
    assert trie.name.tolist() == [-1, 1, 5, 0, 2, -1]
    assert trie.shadowed.tolist() == [[3, -1], [4, 0]]
    assert (trie.names, trie.nodes, trie.depth, trie.steps, trie.fan_out) == (4, 5, 3, 4, [2, 1, 1, 0])


def test_saved_and_opened_it_is_the_same(tmp_path):
    trie = Trie.build([[3, 4], [3], [3, 4]], VOCAB, EOS)
    trie.save(tmp_path / "trie")
    trie.save(tmp_path / "trie")  # again, over itself
    opened = Trie.open(tmp_path / "trie")
    for array in ("first", "token", "name"):
        assert torch.equal(getattr(opened, array), getattr(trie, array))
    assert opened.shadowed.tolist() == [[2, 0]]
    assert opened.fingerprint == trie.fingerprint
    assert (opened.steps, opened.fan_out, opened.eos, opened.vocab) == (trie.steps, trie.fan_out, EOS, VOCAB)
    facts = json.loads((tmp_path / "trie" / "trie.json").read_text())
    assert facts["names"] == 2 and facts["nodes"] == 3 and facts["shadowed"] == 1


def test_an_opened_trie_lies_on_disk(tmp_path):
    Trie.build([[3, 4], [3]], VOCAB, EOS).save(tmp_path / "trie")
    opened = Trie.open(tmp_path / "trie")
    assert isinstance(opened._arrays.first, np.memmap)


def test_the_fingerprint_follows_what_is_in_it():
    base = Trie.build([[3, 4], [3]], VOCAB, EOS)
    assert base.fingerprint == Trie.build([[3, 4], [3]], VOCAB, EOS).fingerprint
    others = [
        Trie.build([[3], [3, 4]], VOCAB, EOS),
        Trie.build([[3, 5], [3]], VOCAB, EOS),
        Trie.build([[3, 4], [3]], VOCAB, 10),
        Trie.build([[3, 4], [3]], VOCAB, EOS, ends_at=2),
    ]
    assert len({base.fingerprint, *(other.fingerprint for other in others)}) == 5


def test_what_is_no_trie_is_said(tmp_path):
    with pytest.raises(RaylabError, match="cannot be opened"):
        Trie.open(tmp_path / "nothing")
    Trie.build([[3]], VOCAB, EOS).save(tmp_path / "old")
    facts = tmp_path / "old" / "trie.json"
    facts.write_text(facts.read_text().replace('"version": 1', '"version": 0'))
    with pytest.raises(RaylabError, match="version 0"):
        Trie.open(tmp_path / "old")


@pytest.mark.parametrize(
    ("names", "ends_at", "message"),
    [
        ([[3], [4, EOS]], None, "name 1 has the end token 11"),
        ([[3], [4], [5, 99]], None, "name 2 has token 99"),
        ([[3], [-1]], None, "name 1 has token -1"),
        ([[], []], None, "none of 2 names has tokens"),
        ([[3, 4, 5]], 2, "ends_at=2"),
    ],
)
def test_wrong_names_are_refused(names, ends_at, message):
    with pytest.raises(RaylabError, match=message):
        Trie.build(names, VOCAB, EOS, ends_at)


def test_sequences_may_come_from_a_generator():
    ragged = gather([i % 7] * (i % 3) for i in range(70_000))
    assert len(ragged) == 70_000 and ragged.length.sum() == len(ragged.token)
    assert ragged.token[ragged.start[69_998] : ragged.start[69_999]].tolist() == [69_998 % 7] * (69_998 % 3)
    assert len(gather([])) == 0

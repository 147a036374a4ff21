"""Flat hit@k and hierarchical precision@k, against counts made by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from evaluate.small_sets import FixedFeatures, bare_set

from raylab.errors import RaylabError
from raylab.evaluate.embedding import BOTH, SEEN, UNSEEN, Embedding, hierarchical_precision, hits
from raylab.evaluate.hierarchy import IsA, entity_edges, open_edges
from raylab.kb.build import BuildConfig, build
from raylab.kb.catalog import Catalog

#        animal
#      /        \
#    dog         cat
#   /   \       /   \
#  pug  collie  manx  tabby        stone
EDGES = [
    *[("pug", "dog"), ("collie", "dog"), ("manx", "cat"), ("tabby", "cat"), ("dog", "animal"), ("cat", "animal")],
]
LEAVES = ("pug", "collie", "manx", "tabby")


def test_correct_sets_grow_ring_by_ring_and_keep_ties() -> None:
    sets = IsA(EDGES).correct_sets("pug", {*LEAVES, "stone"}, [1, 2, 3, 4, 5])
    assert sets[1] == {"pug"}
    assert sets[2] == {"pug", "collie"}  # two steps away
    assert sets[3] == sets[4] == set(LEAVES)  # both cats are four steps away
    assert sets[5] == set(LEAVES)  # the stone cannot be reached
    assert IsA(EDGES).correct_sets("pug", {"dog", "tabby"}, [1, 2]) == {1: {"dog"}, 2: {"dog", "tabby"}}


def test_a_label_that_is_no_candidate_begins_with_the_nearest_that_is() -> None:
    assert IsA(EDGES).correct_sets("pug", {"collie", "manx"}, [1])[1] == {"collie"}


def test_hits_and_hierarchical_precision_by_hand() -> None:
    labels = ["pug", "manx"]
    said = [["collie", "pug", "tabby"], ["tabby", "collie"]]
    assert [hits(labels, said, k) for k in (1, 2, 3)] == [0, 0.5, 0.5]
    graph, valid = IsA(EDGES), set(LEAVES)
    sets = {label: graph.correct_sets(label, valid, [1, 2, 3]) for label in labels}
    found = [hierarchical_precision(labels, said, {one: sets[one][k] for one in labels}, k) for k in (1, 2, 3)]
    # pug: collie is in its set from 2 on, all leaves are from 3 on; manx: tabby is from 2 on; one answer is missing
    np.testing.assert_allclose(found, [0, (2 / 2 + 1 / 2) / 2, (3 / 3 + 2 / 3) / 2])


class Named:
    """Knows names by letters' places on a circle; says what it learnt from."""

    dim = 2

    def __init__(self, **angles: float) -> None:
        self.classes = {"pug": "pug", "manx": "manx"}
        self.angles = angles or {"pug": 0, "collie": 20, "manx": 100, "tabby": 120}

    def name_vectors(self, names):
        angle = np.radians([self.angles.get(name, np.nan) for name in names])
        return np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)


def scores_of(embedder, labels, degrees, graph=None):
    angle = np.radians(degrees)
    vectors = np.stack([np.cos(angle), np.sin(angle)], 1)
    images = replace(bare_set("animals", labels), titles={label: (label,) for label in labels})
    outcome = Embedding(images, graph)(FixedFeatures({"animals": vectors}, embedder))
    return {(one.protocol, one.metric): one.value for one in outcome.scores}, outcome


def test_seen_and_unseen_labels_have_candidates_of_their_own() -> None:
    labels, degrees = ["pug", "manx", "collie", "tabby", "stone"], [40, 95, 8, 112, 50]
    found, outcome = scores_of(Named(), labels, degrees, lambda names: IsA(EDGES))
    assert found[SEEN, "hit@1"] == 1  # among pug and manx alone
    assert found[UNSEEN, "hit@1"] == pytest.approx(2 / 3)  # among collie and tabby: the stone's name is not known
    assert found[BOTH, "hit@1"] == pytest.approx(1 / 3)  # the pug is nearer to the collie's picture
    assert found[BOTH, "hit@2"] == pytest.approx(2 / 3)
    # the collie's picture is called pug, collie: both near; the tabby's tabby, manx; the stone's nothing near
    assert found[BOTH, "hp@2"] == pytest.approx((1 + 1 + 0) / 3)
    assert found[SEEN, "hp@1"] == found[SEEN, "hit@1"]
    counts = {one.protocol: one.count for one in outcome.scores}
    assert counts == {SEEN: 2, UNSEEN: 3, BOTH: 3}
    assert len(outcome.notes) == 2 and all("1 of 5" in note for note in outcome.notes)


def test_a_softmax_is_scored_on_what_it_can_say() -> None:
    softmax = Named(pug=0, manx=100)
    found, _ = scores_of(softmax, ["pug", "manx", "collie", "tabby"], [0, 100, 8, 112], lambda names: IsA(EDGES))
    assert {protocol for protocol, _ in found} == {SEEN, BOTH}
    assert (found[BOTH, "hit@1"], found[BOTH, "hit@2"]) == (0, 0)
    assert found[BOTH, "hp@2"] == 0.5  # the pug is near to the collie, the manx is not


def test_edges_are_read_in_both_forms(tmp_path: Path) -> None:
    (tmp_path / "is_a.txt").write_text("n1 n2\n\nn1 n3\n")
    assert open_edges(str(tmp_path / "is_a.txt")) == [("n2", "n1"), ("n3", "n1")]
    (tmp_path / "p279.jsonl").write_text('{"qid": "Q2", "subclass_of": ["Q1", "Q0"]}\n')
    assert open_edges(str(tmp_path / "p279.jsonl")) == [("Q2", "Q1"), ("Q2", "Q0")]
    (tmp_path / "bad.txt").write_text("n1 n2\nn1 n2 n3\n")
    with pytest.raises(RaylabError, match=r"bad.txt:2: wanted two nodes"):
        open_edges(str(tmp_path / "bad.txt"))
    with pytest.raises(RaylabError, match="cannot be read"):
        open_edges(str(tmp_path / "none.txt"))
    assert ("mw:flag-of-france", "national flag") in open_edges("miniworld://")


def test_entities_hang_from_their_lowest_classes(tmp_path: Path) -> None:
    rows = '{"id": "Q1", "title": "Rex", "types": ["pug", "pet"]}\n{"id": "Q2", "title": "It"}\n'
    (tmp_path / "pets.jsonl").write_text(rows)
    edges = '{"qid": "pug", "subclass_of": "dog"}\n{"qid": "dog", "subclass_of": "animal"}\n'
    (tmp_path / "p279.jsonl").write_text(edges)
    files = {"catalogues": (str(tmp_path / "pets.jsonl"),), "type_edges": (str(tmp_path / "p279.jsonl"),)}
    build(BuildConfig(**files, out=str(tmp_path / "kb")))
    catalog = Catalog.open(tmp_path / "kb")
    assert set(catalog.entities["types"].to_pylist()[int(catalog.rows(["Q1"])[0])]) == {"pug", "pet", "dog", "animal"}
    found = entity_edges(catalog, ["Q1", "Q2", "Q3"], open_edges(str(tmp_path / "p279.jsonl")))
    assert sorted(found) == [("Q1", "pet"), ("Q1", "pug")]

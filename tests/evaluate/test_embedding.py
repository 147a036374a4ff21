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
from raylab.evaluate.plan import EvaluateConfig
from raylab.evaluate.suite import _embedding
from raylab.kb.build import BuildConfig, build
from raylab.kb.catalog import Catalog
from raylab.kb.is_a import pair_table

#        animal
#      /        \
#    dog         cat
#   /   \       /   \
#  pug  collie  manx  tabby        stone
EDGES = pair_table(
    [("pug", "dog"), ("collie", "dog"), ("manx", "cat"), ("tabby", "cat"), ("dog", "animal"), ("cat", "animal")]
)
LEAVES = ("pug", "collie", "manx", "tabby")


def test_correct_sets_grow_ring_by_ring_and_keep_ties() -> None:
    sets = IsA(EDGES).correct_sets(["pug"], {*LEAVES, "stone"}, [1, 2, 3, 4, 5])["pug"]
    assert sets[1] == {"pug"}
    assert sets[2] == {"pug", "collie"}  # two steps away
    assert sets[3] == sets[4] == set(LEAVES)  # both cats are four steps away
    assert sets[5] == set(LEAVES)  # the stone cannot be reached
    found = IsA(EDGES).correct_sets(["pug", "stone"], {"dog", "tabby", "stone"}, [1, 2])
    assert found == {"pug": {1: {"dog"}, 2: {"dog", "tabby"}}, "stone": {1: {"stone"}, 2: {"stone"}}}


def test_a_label_that_is_no_candidate_begins_with_the_nearest_that_is() -> None:
    assert IsA(EDGES).correct_sets(["pug"], {"collie", "manx"}, [1])["pug"][1] == {"collie"}


def test_hits_and_hierarchical_precision_by_hand() -> None:
    labels = ["pug", "manx"]
    said = [["collie", "pug", "tabby"], ["tabby", "collie"]]
    assert [hits(labels, said, k) for k in (1, 2, 3)] == [0, 0.5, 0.5]
    graph, valid = IsA(EDGES), set(LEAVES)
    sets = graph.correct_sets(labels, valid, [1, 2, 3])
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


def pairs_of(address: str) -> list[tuple[str, str]]:
    return [(row["below"], row["above"]) for row in open_edges(address).to_pylist()]


def test_edges_are_read_in_both_forms(tmp_path: Path) -> None:
    (tmp_path / "is_a.txt").write_text("n1 n2\n\nn1 n3\n")
    assert pairs_of(str(tmp_path / "is_a.txt")) == [("n2", "n1"), ("n3", "n1")]
    (tmp_path / "p279.jsonl").write_text('{"qid": "Q2", "subclass_of": ["Q1", "Q0"]}\n')
    assert pairs_of(str(tmp_path / "p279.jsonl")) == [("Q2", "Q1"), ("Q2", "Q0")]
    (tmp_path / "bad.txt").write_text("n1 n2\nn1 n2 n3\n")
    with pytest.raises(RaylabError, match=r"bad.txt:2: wanted two nodes"):
        open_edges(str(tmp_path / "bad.txt"))
    with pytest.raises(RaylabError, match="cannot be read"):
        open_edges(str(tmp_path / "none.txt"))
    assert ("mw:flag-of-france", "national flag") in pairs_of("miniworld://")


def pets(tmp_path: Path, *, edges: bool = True) -> Catalog:
    """A knowledge base of an entity with two classes, one without any, and one that is a class itself."""
    rows = ['{"id": "Q1", "title": "Rex", "types": ["pug", "pet"]}', '{"id": "Q2", "title": "It"}']
    (tmp_path / "pets.jsonl").write_text("\n".join([*rows, '{"id": "collie", "title": "collie"}']) + "\n")
    pairs = [("pug", "dog"), ("collie", "dog"), ("dog", "animal"), ("manx", "cat"), ("cat", "animal")]
    (tmp_path / "p279.csv").write_text("qid,subclass_of\n" + "".join(f"{a},{b}\n" for a, b in pairs))
    files = (str(tmp_path / "p279.csv"),) if edges else ()
    build(BuildConfig(str(tmp_path / "kb"), (str(tmp_path / "pets.jsonl"),), type_edges=files, context=False))
    return Catalog.open(tmp_path / "kb")


def test_entities_hang_from_their_lowest_classes(tmp_path: Path) -> None:
    catalog = pets(tmp_path)
    assert set(catalog.entities["types"].to_pylist()[int(catalog.rows(["Q1"])[0])]) == {"pug", "pet", "dog", "animal"}
    found = entity_edges(catalog, ["Q1", "Q2", "Q3"], open_edges(str(tmp_path / "p279.csv")))
    assert sorted(map(tuple, (row.values() for row in found.to_pylist()))) == [("Q1", "pet"), ("Q1", "pug")]


def test_the_knowledge_bases_own_edges_are_the_default(tmp_path: Path) -> None:
    catalog = pets(tmp_path)
    images = replace(bare_set("animals", ["Q1", "collie"]), titles={"Q1": ("pug",), "collie": ("collie",)})
    config = EvaluateConfig(kb=str(catalog.path))
    outcome = _embedding(config, images)(FixedFeatures({"animals": np.eye(2, dtype=np.float32)}, Named()))
    assert {one.metric for one in outcome.scores} >= {"hit@1", "hp@1", "hp@2"}
    assert pairs_of(str(catalog.path)) == [("collie", "dog"), ("dog", "animal"), ("pug", "dog")]  # nobody reaches a cat


def test_a_knowledge_base_without_edges_says_so(tmp_path: Path) -> None:
    catalog = pets(tmp_path, edges=False)
    images = replace(bare_set("animals", ["Q1"]), titles={"Q1": ("pug",)})
    outcome = _embedding(EvaluateConfig(kb=str(catalog.path)), images)(
        FixedFeatures({"animals": np.eye(2, dtype=np.float32)[:1]}, Named())
    )
    assert {one.metric for one in outcome.scores} == {"hit@1", "hit@2"}
    assert any("keeps no 'subclass of' pairs" in note for note in outcome.notes)
    with pytest.raises(RaylabError, match="build it again with --type-edges"):
        open_edges(str(catalog.path))


def test_classes_that_no_edge_names_have_no_hierarchy() -> None:
    found, outcome = scores_of(Named(x=0, pug=0, manx=9), ["x"], [0], lambda names: IsA(EDGES.slice(4)))
    assert not any(metric.startswith("hp") for _, metric in found)
    assert any("not in the graph" in note for note in outcome.notes)


def test_distances_are_those_of_a_plain_search() -> None:
    rng = np.random.default_rng(3)
    pairs = [(f"n{low}", f"n{high}") for low, high in rng.integers(0, 60, (90, 2)).tolist()]
    beside: dict[str, set[str]] = {}
    for a, b in pairs:
        beside.setdefault(a, set()).add(b)
        beside.setdefault(b, set()).add(a)
    valid = {f"n{number}" for number in range(0, 60, 4)}
    found = IsA(pair_table(pairs)).correct_sets(valid, valid, [2, 5])
    for label in valid:
        steps, ring = {label: 0}, [label]
        for node in ring:
            new = [other for other in sorted(beside.get(node, ())) if other not in steps]
            steps |= dict.fromkeys(new, steps[node] + 1)
            ring += new
        for k in (2, 5):
            near = sorted(steps[one] for one in valid if one in steps)
            limit = near[min(k, len(near)) - 1]
            assert found[label][k] == {one for one in valid if steps.get(one, limit + 1) <= limit}

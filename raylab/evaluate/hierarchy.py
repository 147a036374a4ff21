"""Which classes are near which in a graph of "is a" edges, as DeViSE's hierarchical precision asks (NeurIPS 2013)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from raylab.errors import RaylabError
from raylab.kb.hashing import prefix_sums
from raylab.kb.is_a import ClassGraph, pair_table
from raylab.kb.tabular import read_edges

if TYPE_CHECKING:
    from raylab.kb.catalog import Catalog

MINIWORLD = "miniworld://"


class IsA:
    """The graph. Edges count one step either way.

    Args:
        edges: a `is_a.PAIRS` table: a node and one above it.
    """

    def __init__(self, edges: pa.Table) -> None:
        self._graph = ClassGraph(edges)
        self._ends = np.stack([self._graph.codes(edges["below"]), self._graph.codes(edges["above"])])

    def has(self, labels: Sequence[str]) -> np.ndarray:
        """Tell which labels are nodes, bool [labels]."""
        return self._graph.codes(labels) >= 0

    def correct_sets(
        self, labels: Iterable[str], valid: Collection[str], ks: Sequence[int]
    ) -> dict[str, dict[int, frozenset[str]]]:
        """Return hCorrectSet(label, k) of each label for each k: the valid nodes nearest to it, until there are k.

        All nodes at the last distance are kept, so a set may have more than k; it has fewer where no more can be
        reached. Paths go through all nodes.

        Args:
            labels: the true classes.
            valid: the candidates of the experiment.
            ks: rising.
        """
        named, candidates = list(dict.fromkeys(labels)), list(valid)
        starts, places = self._graph.codes(named), self._graph.codes(candidates)
        name_of = np.full(len(self._graph.nodes), -1)
        name_of[places[places >= 0]] = np.flatnonzero(places >= 0)
        beside = self._between(np.concatenate([starts, places]))
        found = {}
        for label, start in zip(named, starts.tolist()):
            if start < 0:  # near to itself alone
                found[label] = _sets(iter([[label] if label in valid else []]), ks)
                continue
            rings = (name_of[ring] for ring in _rings(start, beside))
            found[label] = _sets(([candidates[at] for at in ring[ring >= 0].tolist()] for ring in rings), ks)
        return found

    def _between(self, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return each node's neighbours (where they begin, int64 [n + 1], and which) on ways between some nodes.

        A dead end that is not one of `ends` lies on no shortest way: of Wikidata's classes most are left out so.
        """
        count, edges_2E = len(self._graph.nodes), self._ends
        wanted = np.zeros(count, bool)
        wanted[ends[ends >= 0]] = True
        while True:
            through = wanted | (np.bincount(edges_2E.ravel(), minlength=count) > 1)
            kept = through[edges_2E].all(0)
            if kept.all():
                break
            edges_2E = edges_2E[:, kept]
        sources = np.concatenate([edges_2E[0], edges_2E[1]])
        order = np.argsort(sources, kind="stable")
        targets = np.concatenate([edges_2E[1], edges_2E[0]])[order]
        return prefix_sums(np.bincount(sources, minlength=count)), targets


def _rings(start: int, beside: tuple[np.ndarray, np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the nodes at a distance of 0, 1, 2, ... steps, until all that can be reached were seen."""
    first, others = beside
    seen = np.zeros(len(first) - 1, bool)
    ring = np.array([start])
    while len(ring):
        seen[ring] = True
        yield ring
        sizes = first[ring + 1] - first[ring]
        places = np.repeat(first[ring] - prefix_sums(sizes)[:-1], sizes) + np.arange(int(sizes.sum()))
        following = np.unique(others[places])
        ring = following[~seen[following]]


def _sets(rings: Iterator[list[str]], ks: Sequence[int]) -> dict[int, frozenset[str]]:
    found: dict[int, frozenset[str]] = {}
    near: set[str] = set()
    for ring in rings:
        near.update(ring)
        if ring:
            found |= {k: frozenset(near) for k in ks if k not in found and k <= len(near)}
        if len(found) == len(ks):
            break
    return {k: found.get(k, frozenset(near)) for k in ks}


def open_edges(address: str) -> pa.Table:
    """Read "is a" edges into a `is_a.PAIRS` table: a node and one above it.

    Args:
        address: a knowledge base, of which its own are taken; JSON lines or CSV as ``jobs/build_kb.py --type-edges``
            takes them; a ``.txt`` file with a pair a line, the upper node first, as ImageNet's wordnet.is_a.txt; or
            ``miniworld://``.

    Raises:
        RaylabError: no such file, a line that is no pair, a knowledge base without edges.
    """
    if address == MINIWORLD:
        return pair_table(_miniworld())
    if address.endswith(".txt"):
        return pair_table(_pairs(Path(address)))
    if (Path(address) / "kb.json").exists():
        from raylab.kb.catalog import Catalog

        return Catalog.open(address).edges
    return pair_table(read_edges(address))


def _pairs(path: Path) -> list[tuple[str, str]]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RaylabError(f"--embedding.edges {path}: cannot be read ({error}).") from error
    found = []
    for number, line in enumerate(lines, start=1):
        nodes = line.split()
        if nodes and len(nodes) != 2:
            raise RaylabError(f"{path}:{number}: wanted two nodes, the upper one first: {line[:80]!r}")
        found += [(nodes[1], nodes[0])] if nodes else []
    if not found:
        raise RaylabError(f"{path} holds no pair of nodes.")
    return found


def _miniworld() -> list[tuple[str, str]]:
    from raylab.sources.miniworld.entities import ENTITIES

    chains = ((one.id, *one.types) for one in ENTITIES)
    return list(dict.fromkeys(pair for chain in chains for pair in pairwise(chain)))


def entity_edges(catalog: Catalog, ids: Sequence[str], edges: pa.Table) -> pa.Table:
    """Return the edges from entities to their classes (P31), where the classes' own edges (P279) are known.

    A knowledge base keeps an entity's classes closed upward; those that lie above another one of them are left out.

    Args:
        catalog: the knowledge base.
        ids: of entities; those that it does not have get no edge.
        edges: of classes.
    """
    rows = catalog.rows(ids)
    types = catalog.take(rows[rows >= 0], ("types",))["types"].to_pylist()
    known = [one for one, row in zip(ids, rows.tolist()) if row >= 0]
    kinds = list({kind for row in types for kind in row or ()})
    graph = ClassGraph(edges)
    above = {
        kind: set(graph.names(graph.ancestors(code))) for kind, code in zip(kinds, graph.codes(kinds)) if code >= 0
    }
    return pair_table((one, kind) for one, row in zip(known, types) for kind in _lowest(row or (), above))


def _lowest(kinds: Sequence[str], above: Mapping[str, set[str]]) -> list[str]:
    higher = set().union(*(above.get(kind, ()) for kind in kinds))
    return [kind for kind in kinds if kind not in higher] or list(kinds[:1])

"""Which classes are near which in a graph of "is a" edges, as DeViSE's hierarchical precision asks (NeurIPS 2013)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from raylab.errors import RaylabError

if TYPE_CHECKING:
    from raylab.kb.catalog import Catalog

MINIWORLD = "miniworld://"


class IsA:
    """The graph. Edges count one step either way.

    Args:
        edges: pairs of a node and one above it.
    """

    def __init__(self, edges: Iterable[tuple[str, str]]) -> None:
        self._beside: Mapping[str, set[str]] = defaultdict(set)
        for below, above in edges:
            self._beside[below].add(above)
            self._beside[above].add(below)

    def __contains__(self, node: str) -> bool:
        return node in self._beside

    def rings(self, label: str, valid: Collection[str]) -> Iterator[list[str]]:
        """Yield the valid nodes at a distance of 0, 1, 2, ... steps, until all that can be reached were seen.

        Args:
            label: where it begins.
            valid: nodes that count; paths go through all.
        """
        seen, ring = {label}, [label]
        while ring:
            yield [node for node in ring if node in valid]
            following = dict.fromkeys(other for node in ring for other in self._beside.get(node, ()))
            ring = [node for node in following if node not in seen]
            seen.update(ring)

    def correct_sets(self, label: str, valid: Collection[str], ks: Sequence[int]) -> dict[int, frozenset[str]]:
        """Return hCorrectSet(label, k) for each k: the valid nodes nearest to the label, until there are k or more.

        All nodes at the last distance are kept, so a set may have more than k; it has fewer where no more can be
        reached.

        Args:
            label: the true class.
            valid: the candidates of the experiment.
            ks: rising.
        """
        found: dict[int, frozenset[str]] = {}
        near: set[str] = set()
        for ring in self.rings(label, valid):
            near.update(ring)
            found |= {k: frozenset(near) for k in ks if k not in found and k <= len(near)}
            if len(found) == len(ks):
                break
        return {k: found.get(k, frozenset(near)) for k in ks}


def open_edges(address: str) -> list[tuple[str, str]]:
    """Read "is a" edges: pairs of a node and one above it.

    Args:
        address: JSON lines or CSV as ``jobs/build_kb.py --type-edges`` takes them, or a ``.txt`` file with a pair a
            line, the upper node first, as ImageNet's wordnet.is_a.txt; or ``miniworld://``.

    Raises:
        RaylabError: no such file, or a line that is no pair.
    """
    if address == MINIWORLD:
        return _miniworld()
    if address.endswith(".txt"):
        return _pairs(Path(address))
    from raylab.kb.tabular import read_edges

    return [(below, above) for below, parents in read_edges(address).items() for above in parents]


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


def entity_edges(catalog: Catalog, ids: Sequence[str], edges: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the edges from entities to their classes (P31), where the classes' own edges (P279) are known.

    A knowledge base keeps an entity's classes closed upward; those that lie above another one of them are left out.

    Args:
        catalog: the knowledge base.
        ids: of entities; those that it does not have get no edge.
        edges: of classes.
    """
    above: dict[str, set[str]] = defaultdict(set)
    for below, parent in edges:
        above[below].add(parent)
    rows = catalog.rows(ids)
    types = catalog.take(rows[rows >= 0], ("types",))["types"].to_pylist()
    known = [one for one, row in zip(ids, rows.tolist()) if row >= 0]
    return [(one, kind) for one, kinds in zip(known, types) for kind in _lowest(kinds or (), above)]


def _lowest(kinds: Sequence[str], above: Mapping[str, set[str]]) -> list[str]:
    higher: set[str] = set()
    for kind in kinds:
        waiting = [kind]
        while waiting:
            new = above.get(waiting.pop(), set()) - higher
            higher |= new
            waiting += new
    return [kind for kind in kinds if kind not in higher] or list(kinds[:1])

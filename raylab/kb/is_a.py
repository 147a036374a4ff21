"""Pairs of a class and one above it ("subclass of", P279), as arrays: Wikidata has some five million of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raylab.kb.hashing import prefix_sums

PAIRS = pa.schema([("below", pa.string()), ("above", pa.string())])
_ROWS = 1 << 17


def pair_table(pairs: Iterable[tuple[str, str]]) -> pa.Table:
    """Return a `PAIRS` table, without ever holding all pairs as objects."""
    rest, batches = iter(pairs), []
    while some := list(islice(rest, _ROWS)):
        below, above = zip(*some)
        batches.append(pa.record_batch([pa.array(below, pa.string()), pa.array(above, pa.string())], schema=PAIRS))
    return pa.Table.from_batches(batches, PAIRS)


def write_pairs(pairs: pa.Table, path: Path) -> None:
    """Write a `PAIRS` table as an Arrow file."""
    with pa.ipc.new_file(path, PAIRS) as writer:
        writer.write_table(pairs, max_chunksize=_ROWS)


class ClassGraph:
    """Which classes lie directly above each class.

    Args:
        pairs: a `PAIRS` table, repeats allowed.

    Attributes:
        nodes: string [n], all classes that occur, each once; a node's number is its place here.
    """

    def __init__(self, pairs: pa.Table) -> None:
        names = pa.chunked_array([*pairs["below"].chunks, *pairs["above"].chunks], pa.string())
        encoded = names.combine_chunks().dictionary_encode()
        self.nodes: pa.StringArray = encoded.dictionary
        codes = encoded.indices.to_numpy()
        self._below, self._above = codes[: len(pairs)], codes[len(pairs) :]

    @cached_property
    def _upward(self) -> tuple[np.ndarray, np.ndarray]:
        """Where each node's parents begin, int64 [n + 1], and the parents in the order given, int32."""
        order = np.argsort(self._below, kind="stable")
        return prefix_sums(np.bincount(self._below, minlength=len(self.nodes))), self._above[order]

    def codes(self, names: Sequence[str] | pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Return the number of each name, int64 [names], -1 for one that is no class here."""
        given = names if isinstance(names, (pa.Array, pa.ChunkedArray)) else pa.array(names, pa.string())
        return pc.fill_null(pc.index_in(given, self.nodes), -1).to_numpy().astype(np.int64)

    def names(self, codes: Sequence[int] | np.ndarray) -> list[str]:
        """Return the names of some numbers."""
        return self.nodes.take(pa.array(codes, pa.int64())).to_pylist()

    def ancestors(self, code: int) -> list[int]:
        """Return all nodes above one, nearest first, itself left out. Circles do no harm."""
        starts, parents = self._upward
        seen, queue = {code}, [code]
        for node in queue:
            for parent in parents[starts[node] : starts[node + 1]].tolist():
                if parent not in seen:
                    seen.add(parent)
                    queue.append(parent)
        return queue[1:]

    def closure(self, types: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Return every ancestor of each type that has any, nearest first."""
        return {kind: tuple(self.names(above)) for kind, above in self._closed(types) if above}

    def _closed(self, types: Sequence[str]) -> Iterator[tuple[str, list[int]]]:
        for kind, code in zip(types, self.codes(types).tolist()):
            yield kind, self.ancestors(code) if code >= 0 else []

    def reached(self, roots: np.ndarray) -> pa.Table:
        """Return the pairs on all ways up from some nodes, each once, sorted: they do not depend on the input's order.

        Args:
            roots: integer, numbers of nodes.
        """
        near = np.zeros(len(self.nodes), bool)
        near[roots] = True
        count = -1
        while count != (count := int(near.sum())):
            near[self._above[near[self._below]]] = True
        kept = near[self._below] & (self._below != self._above)
        pairs = np.unique((self._below[kept].astype(np.int64) << 32) | self._above[kept])
        columns = [self.nodes.take(pa.array(codes)) for codes in (pairs >> 32, pairs & 0xFFFFFFFF)]
        return pa.table(columns, schema=PAIRS).sort_by([("below", "ascending"), ("above", "ascending")])

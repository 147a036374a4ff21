"""One partition of a knowledge base: rows of all sources become one row an entity, sorted by the hash of its id."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raylab.kb.hashing import hash_strings
from raylab.kb.records import RAW


def merge(rows: pa.Table) -> tuple[pa.Table, np.ndarray]:
    """Merge rows that share an id: names united, first text wins, highest popularity wins.

    Args:
        rows: `RAW` rows of one partition, earlier sources first.

    Returns:
        One `RAW` row an id, and their id hashes, uint64, ascending.
    """
    hashes = hash_strings(rows["id"])
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    first = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)])
    counts = np.diff(np.append(first, len(ordered)))
    merged = rows.take(pa.array(order[first]))
    shared = np.flatnonzero(counts > 1)
    if shared.size:
        groups = [order[first[i] : first[i] + counts[i]] for i in shared]
        merged = _replace(merged, shared, _merged_groups(rows, groups))
    return merged, ordered[first]


def _merged_groups(rows: pa.Table, groups: Sequence[np.ndarray]) -> pa.Table:
    members = rows.take(pa.array(np.concatenate(groups))).to_pylist()
    out, at = [], 0
    for group in groups:
        out.append(merge_rows(members[at : at + len(group)]))
        at += len(group)
    return pa.Table.from_pylist(out, RAW)


def merge_rows(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Merge `RAW` rows of one entity; a second title becomes an alias."""
    titles = [row["title"] for row in rows if row["title"]]
    names = titles[1:] + [alias for row in rows for alias in row["aliases"] or ()]
    popularity = [row["popularity"] for row in rows if row["popularity"] is not None]
    return {
        "id": rows[0]["id"],
        "title": titles[0] if titles else None,
        "aliases": [name for name in dict.fromkeys(names) if name != titles[0]] if titles else [],
        "description": next((row["description"] for row in rows if row["description"]), None),
        "summary": next((row["summary"] for row in rows if row["summary"]), None),
        "types": list(dict.fromkeys(kind for row in rows for kind in row["types"] or ())),
        "popularity": max(popularity) if popularity else None,
    }


def _replace(table: pa.Table, at: np.ndarray, rows: pa.Table) -> pa.Table:
    """Return `table` with the rows `at` replaced."""
    source = np.arange(len(table))
    source[at] = len(table) + np.arange(len(at))
    return pa.concat_tables([table, rows]).take(pa.array(source)).combine_chunks()


def drop(rows: pa.Table, hashes: np.ndarray, unwanted: Sequence[str]) -> tuple[pa.Table, np.ndarray, Counter[str]]:
    """Leave out rows without a title and rows of an unwanted type.

    Args:
        rows: `RAW` rows.
        hashes: their id hashes.
        unwanted: type ids, for example of disambiguation pages.

    Returns:
        The rows kept, their hashes, and the counts of the others by reason.
    """
    titled = pc.is_valid(rows["title"]).to_numpy(zero_copy_only=False)
    wanted = ~has_type(rows["types"], unwanted)
    counts = Counter({"no title": int((~titled).sum()), "unwanted type": int((titled & ~wanted).sum())})
    keep = titled & wanted
    return rows.filter(pa.array(keep)), hashes[keep], +counts


def has_type(types: pa.ChunkedArray | pa.Array, wanted: Iterable[str]) -> np.ndarray:
    """Tell which rows have one of the `wanted` types, bool [n]."""
    flags = np.zeros(len(types), bool)
    is_wanted = pc.is_in(pc.list_flatten(types), pa.array(list(wanted), pa.string()))
    parents = pc.list_parent_indices(types).filter(is_wanted)
    flags[parents.to_numpy()] = True
    return flags


def close_types(types: pa.ChunkedArray | pa.Array, above: dict[str, tuple[str, ...]]) -> pa.Array:
    """Close each row's types over "subclass of": its own types first, then all that lie above them, nearest first.

    Args:
        types: list<string> [n].
        above: type -> its ancestors (`is_a.ClassGraph.closure`).
    """
    if not above:
        return types.combine_chunks() if isinstance(types, pa.ChunkedArray) else types
    known: dict[tuple[str, ...], list[str]] = {}
    closed = []
    for row in types.to_pylist():
        key = tuple(row or ())
        if key not in known:
            known[key] = list(dict.fromkeys([*key, *(kind for own in key for kind in above.get(own, ()))]))
        closed.append(known[key])
    return pa.array(closed, pa.list_(pa.string()))

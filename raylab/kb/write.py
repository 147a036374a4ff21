"""The last part of a build: merged entities become the files of a knowledge base."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raylab.kb import catalog as layout
from raylab.kb.context import ContextSpace
from raylab.kb.fingerprint import Fingerprint
from raylab.kb.hashing import HashIndex
from raylab.kb.is_a import ClassGraph, write_pairs
from raylab.kb.normalise import Folding
from raylab.kb.owners import Owners, build_index
from raylab.schema import ENTITY

Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]
"""Runs a function over tasks, perhaps in parallel; results in the tasks' order."""

BATCH_ROWS = 1 << 17
"""Rows of a record batch of entities."""
CONTEXT_SAMPLE = 200_000
"""Entities that the text vectors are fitted on."""


def write_entities(work: Path, folder: Path, partitions: int, types: list[str]) -> Fingerprint:
    """Write entities in batches of `BATCH_ROWS`, their popularity and the index of their ids.

    Names and summaries, which labeling never looks at, go to a file of their own.
    """
    dictionary = pa.array(types, pa.string())
    of_types = pa.list_(pa.dictionary(pa.int32(), pa.string()))
    schema = ENTITY.set(ENTITY.get_field_index("types"), pa.field("types", of_types))
    hot, cold = layout.split(schema)
    fingerprint, popularity = Fingerprint(), [np.zeros(0, np.float32)]
    hashes: list[np.ndarray] = []
    with (
        pa.ipc.new_file(folder / layout.ENTITIES, hot) as entities,
        pa.ipc.new_file(folder / layout.NAMES, cold) as names,
    ):
        for table in _batches(work, partitions, hashes):
            fingerprint.add(table)
            popularity.append(table["popularity"].to_numpy())
            types_column = table["types"].combine_chunks()
            codes = pc.index_in(types_column.values, dictionary)
            encoded = pa.ListArray.from_arrays(types_column.offsets, pa.DictionaryArray.from_arrays(codes, dictionary))
            coded = table.set_column(schema.get_field_index("types"), schema.field("types"), encoded)
            entities.write_table(coded.select(hot.names).cast(hot).combine_chunks())
            names.write_table(coded.select(cold.names).cast(cold).combine_chunks())
    np.save(folder / layout.POPULARITY, np.concatenate(popularity).astype(np.float32))
    HashIndex.of(np.concatenate(hashes)).save(folder / layout.IDS)
    return fingerprint


def _batches(work: Path, partitions: int, hashes: list[np.ndarray]) -> Iterator[pa.Table]:
    """Yield the merged entities in order, `BATCH_ROWS` at a time; their id hashes are appended to `hashes`."""
    waiting = ENTITY.empty_table()
    for number in range(partitions):
        part = work / f"part-{number:03d}"
        with np.load(part.with_suffix(".npz")) as arrays:
            hashes.append(arrays["ids"])
        waiting = pa.concat_tables([waiting, pa.ipc.open_file(pa.memory_map(f"{part}.arrow")).read_all()])
        while len(waiting) >= BATCH_ROWS:
            yield waiting.slice(0, BATCH_ROWS).combine_chunks()
            waiting = waiting.slice(BATCH_ROWS)
    if len(waiting):
        yield waiting.combine_chunks()


def write_edges(folder: Path, graph: ClassGraph, types: list[str]) -> tuple[int, str]:
    """Keep the pairs on the ways up from the entities' types, and from entities that are classes themselves.

    Returns:
        How many, and their own digest: no label depends on them, so the knowledge base's fingerprint leaves them out.
    """
    ids = layout.open_table(folder / layout.ENTITIES)["id"]
    roots = np.concatenate([graph.codes(types), graph.codes(ids)])
    edges = graph.reached(roots[roots >= 0])
    if not len(edges):
        return 0, ""
    write_pairs(edges, folder / layout.EDGES)
    digest = Fingerprint()
    digest.add(edges)
    return len(edges), digest.hexdigest()


def write_aliases(work: Path, folder: Path, partitions: int, folding: Folding, max_owners: int) -> tuple[int, int, int]:
    """Write the alias index; return the counts of surfaces, of owners, and of owners left out."""
    parts, base = [], 0
    for number in range(partitions):
        with np.load(work / f"part-{number:03d}.npz") as arrays:
            owners = Owners(*(arrays[name] for name in Owners.DTYPES))
            parts.append(Owners(owners.hashes, owners.entities + np.int32(base), owners.kinds, owners.gaps))
            base += len(arrays["ids"])
    popularity = np.load(folder / layout.POPULARITY)
    index, crowded = build_index(Owners.join(parts), popularity, folding, max_owners)
    index.save(folder / layout.ALIASES)
    return len(index), len(index.entities), crowded


def write_context(folder: Path, rows: int, local_map: Map) -> None:
    """Fit the text vectors on the first entities (their order is random) and encode all."""
    sample = layout.open_entities(folder).slice(0, CONTEXT_SAMPLE)
    (folder / layout.CONTEXT).mkdir()
    ContextSpace.fit(sample).save(folder / layout.CONTEXT)
    ContextSpace.create_entities(folder / layout.CONTEXT, rows).flush()
    for _ in local_map(partial(encode_batch, str(folder)), range(-(-rows // BATCH_ROWS))):
        pass


def encode_batch(folder: str, number: int) -> None:
    """Encode one record batch of entities into its place in the file of text vectors."""
    space = ContextSpace.open(Path(folder) / layout.CONTEXT)
    batch = layout.open_entities(Path(folder)).slice(number * BATCH_ROWS, BATCH_ROWS)
    records = np.load(f"{folder}/{layout.CONTEXT}/entities.npy", mmap_mode="r+")
    start = number * BATCH_ROWS
    records[start : start + batch.num_rows] = space.encode_entities(batch)
    records.flush()

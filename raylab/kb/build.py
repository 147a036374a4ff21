"""Build a knowledge base: read all sources in pieces, merge by id, index the surfaces, in bounded memory.

    read       each piece of each file -> a spill file, cut by the hash of the id            in parallel
    merge      each range of hashes over all spill files -> entities, and who owns which surface  in parallel
    write      entities in order, one file; alias index; text vectors                        vectors in parallel
    commit     kb.json, then the folder is renamed into place

Entities are ordered by the hash of their id and owners by the hash of their surface, so neither the number of processes
nor of pieces shows in the result.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raylab.errors import RaylabError
from raylab.kb import catalog as layout
from raylab.kb.catalog import KBInfo
from raylab.kb.context import ContextSpace
from raylab.kb.fingerprint import Fingerprint
from raylab.kb.hashing import HashIndex
from raylab.kb.merge import close_types, closure, drop, has_type, merge
from raylab.kb.normalise import Folding
from raylab.kb.owners import Owners, build_index, owners_of
from raylab.kb.records import Piece, Report, read_spill, tables, write_spill
from raylab.kb.tabular import catalogue_pieces, read_catalogue, read_edges
from raylab.schema import ENTITY, SCHEMA_VERSION

T = TypeVar("T")
R = TypeVar("R")
Map = Callable[[Callable[[T], R], Iterable[T]], Iterator[R]]
"""Runs a function over tasks, perhaps in parallel; results in the tasks' order."""

PARTITION_ROWS = 100_000
BATCH_ROWS = 1 << 17
CONTEXT_SAMPLE = 200_000

PAGES_OF_NO_ENTITY = ("Q4167410", "Q13406463", "Q4167836", "Q11266439", "Q17362920", "Q4663903", "Q15184295")
"""Disambiguation, list, category, template, duplicated, portal and module pages: dropped by their P31."""


@dataclass(frozen=True)
class BuildConfig:
    """Where a knowledge base comes from and where it goes."""

    out: str
    """The folder to make. A knowledge base that is there is replaced when the new one is complete."""
    catalogues: tuple[str, ...] = ()
    """JSON-lines or CSV files of entities, or miniworld://; those named first win where texts differ."""
    type_edges: tuple[str, ...] = ()
    """JSON-lines or CSV files of ``qid, subclass_of`` pairs: types are closed over them."""
    person_types: tuple[str, ...] = ("Q5",)
    """Entities of these types get their surname as a partial name."""
    drop_types: tuple[str, ...] = PAGES_OF_NO_ENTITY
    """Entities whose own types hold one of these are left out."""
    max_owners: int = 64
    """Entities that one surface may mean; the least likely beyond are left out."""
    context: bool = True
    """Build the text vectors that disambiguation uses."""
    workers: int = 2
    """Processes."""


Reader = Callable[[Piece, Report], Iterator[dict[str, Any]]]
"""Yields `schema.ENTITY` dicts of a piece and counts in the report what it cannot use."""


@dataclass(frozen=True)
class Input:
    """A piece and what reads it."""

    piece: Piece
    reader: Reader


def build(config: BuildConfig, inputs: list[Input] | None = None, read_map: Map | None = None) -> KBInfo:
    """Build a knowledge base into `config.out`.

    Args:
        config: what and where.
        inputs: what to read besides the catalogues.
        read_map: runs the reading tasks; default: processes of this machine. All share its file system.

    Returns:
        What was built; the same as in its ``kb.json``.

    Raises:
        RaylabError: no input, an unreadable one, not one usable entity, or a folder in the way.
    """
    inputs = [*(inputs or []), *catalogue_inputs(config.catalogues)]
    if not inputs:
        raise RaylabError("there is nothing to build from: name a dump or at least one catalogue.")
    out = Path(config.out)
    check_place(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}.building-", dir=out.parent))
    try:
        with _processes(config.workers, inputs) as local_map:
            info = _build(config, inputs, work, read_map or local_map, local_map)
        _commit(work / "kb", out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return info


def catalogue_inputs(catalogues: Iterable[str]) -> list[Input]:
    """Cut the catalogues for reading; `RaylabError` for one that is not there."""
    return [Input(piece, read_catalogue) for path in catalogues for piece in catalogue_pieces(path)]


def check_place(out: Path) -> None:
    """Raise `RaylabError` where `out` is something else than a knowledge base or an empty folder."""
    if out.exists() and not (out / layout.INFO).exists() and (not out.is_dir() or any(out.iterdir())):
        raise RaylabError(f"{out} is there and is no knowledge base: name another folder.")


def _commit(made: Path, out: Path) -> None:
    """Put the new folder in the place of the old one."""
    if out.exists():
        out.rename(made.parent / "old")
    made.rename(out)


@contextmanager
def _processes(workers: int, inputs: list[Input]) -> Iterator[Map]:
    """Yield a parallel map, or the built-in one where the input is too small to be worth processes."""
    if workers < 2 or sum(one.piece.size for one in inputs) < 4 * 2**20:
        yield map
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield pool.map


def _build(config: BuildConfig, inputs: list[Input], work: Path, read_map: Map, local_map: Map) -> KBInfo:
    folder = work / "kb"
    folder.mkdir()
    folding = Folding.make()
    folding.save(folder / layout.ALIASES)
    reports, spills = _read(inputs, work, read_map)
    above = _closure(config, reports)
    settings = MergeSettings(
        tuple(spills), str(folder / layout.ALIASES), config.person_types, config.drop_types, len(above) > 0
    )
    _save_closure(above, work)
    partitions = _partitions(inputs)
    merged = list(local_map(partial(merge_partition, settings, str(work)), range(partitions)))
    for spill in spills:
        Path(spill).unlink()
    rows = sum(part.rows for part in merged)
    if not rows:
        raise RaylabError(f"not one usable entity in {', '.join(_paths(inputs))}: {_why(reports)}")
    types = sorted(set().union(*(part.types for part in merged)))
    fingerprint = _write_entities(work, folder, partitions, types)
    aliases, owners, crowded = _write_aliases(work, folder, partitions, folding, config.max_owners)
    if config.context:
        _write_context(folder, rows, local_map)
    dropped = sum((part.dropped for part in merged), Counter({"owner beyond max_owners": crowded}))
    info = KBInfo(
        schema_version=SCHEMA_VERSION,
        fingerprint=fingerprint.hexdigest(config.person_types, config.max_owners, config.context),
        dump_date=None,
        entities=rows,
        aliases=aliases,
        owners=owners,
        dropped=dict(sorted((+dropped).items())),
        sources=_sources(reports),
        files={str(f.relative_to(folder)): f.stat().st_size for f in sorted(folder.rglob("*")) if f.is_file()},
    )
    info.save(folder)
    return info


def _paths(inputs: list[Input]) -> list[str]:
    return list(dict.fromkeys(one.piece.path for one in inputs))


def _why(reports: list[Report]) -> str:
    """Say what became of the lines of an input that gave nothing."""
    counts = sum((report.bad + report.dropped for report in reports), Counter())
    return ", ".join(f"{count} x {reason}" for reason, count in counts.most_common(5)) or "the input is empty"


def _sources(reports: list[Report]) -> list[dict[str, Any]]:
    """Sum up the pieces of each file; the sample lines get their number in the file."""
    files: dict[str, Report] = {}
    for report in reports:
        total = files.setdefault(report.path, Report(report.path))
        room = 5 - len(total.samples)
        total.samples += [(total.lines + number, reason, text) for number, reason, text in report.samples[:room]]
        total.lines += report.lines
        total.rows += report.rows
        total.bad += report.bad
        total.dropped += report.dropped
    names = ("path", "lines", "rows", "bad", "dropped", "samples")
    return [{name: getattr(total, name) for name in names} for total in files.values()]


# ------------------------------------------------------------------------------------------------------------ read


def _partitions(inputs: list[Input]) -> int:
    """Return how many ranges of hashes to work on: about 16 MB of input each. The result does not depend on it."""
    packed = (".gz", ".bz2", ".xz", ".zst")
    size = sum(one.piece.size * (5 if one.piece.path.endswith(packed) else 1) for one in inputs)
    return min(max(1, size // (16 * 2**20)), 256)


def _read(inputs: list[Input], work: Path, read_map: Map) -> tuple[list[Report], list[str]]:
    spills = [str(work / f"spill-{number:06d}.arrow") for number in range(len(inputs))]
    tasks = list(zip(inputs, spills, [_partitions(inputs)] * len(inputs)))
    return list(read_map(read_piece, tasks)), spills


def read_piece(task: tuple[Input, str, int]) -> Report:
    """Read one piece into its spill file.

    Args:
        task: what to read, the spill file's path, the number of partitions.
    """
    one, spill, partitions = task
    report = Report(one.piece.path)

    def counted() -> Iterator[pa.Table]:
        for table in tables(one.reader(one.piece, report)):
            report.rows += table.num_rows
            report.types.update(pc.unique(pc.list_flatten(table["types"])).to_pylist())
            yield table

    write_spill(counted(), Path(spill), partitions)
    return report


# ----------------------------------------------------------------------------------------------------------- merge


@dataclass(frozen=True)
class MergeSettings:
    """What every merging task needs to know."""

    spills: tuple[str, ...]
    folding: str
    person_types: tuple[str, ...]
    drop_types: tuple[str, ...]
    close_types: bool


@dataclass
class Merged:
    """What one range of hashes came to."""

    rows: int
    dropped: Counter[str]
    types: set[str] = field(default_factory=set)


def merge_partition(settings: MergeSettings, work: str, partition: int) -> Merged:
    """Merge one range of hashes and list the surfaces of its entities; results go to ``part-*`` files in `work`."""
    rows, hashes = merge(read_spill(map(Path, settings.spills), partition))
    rows, hashes, dropped = drop(rows, hashes, settings.drop_types)
    persons = has_type(rows["types"], settings.person_types)
    above = _load_closure(work) if settings.close_types else {}
    entities = _completed(rows, above)
    owners = owners_of(entities, persons, Folding.open(Path(settings.folding)))
    part = Path(work) / f"part-{partition:03d}"
    with pa.ipc.new_file(part.with_suffix(".arrow"), ENTITY) as writer:
        writer.write_table(entities)
    np.savez(part.with_suffix(".npz"), ids=hashes, **{name: getattr(owners, name) for name in Owners.DTYPES})
    return Merged(len(entities), dropped, set(pc.unique(pc.list_flatten(entities["types"])).to_pylist()))


def _completed(rows: pa.Table, above: dict[str, tuple[str, ...]]) -> pa.Table:
    """Return `schema.ENTITY` rows: no null lists, types closed, popularity 0 where unknown."""
    empty = pa.scalar([], pa.list_(pa.string()))
    types = close_types(pc.fill_null(rows["types"], empty), above)
    columns = {name: rows[name] for name in ENTITY.names}
    columns |= {
        "aliases": pc.fill_null(rows["aliases"], empty),
        "types": types,
        "popularity": pc.fill_null(rows["popularity"], 0),
    }
    return pa.table(columns, schema=ENTITY).combine_chunks()


def _closure(config: BuildConfig, reports: list[Report]) -> dict[str, tuple[str, ...]]:
    parents: dict[str, list[str]] = {}
    for path in config.type_edges:
        for kind, above in read_edges(path).items():
            parents.setdefault(kind, []).extend(above)
    for report in reports:
        for kind, parent in report.edges:
            parents.setdefault(kind, []).append(parent)
    return closure(sorted(set().union(*(report.types for report in reports))), parents)


def _save_closure(above: dict[str, tuple[str, ...]], work: Path) -> None:
    table = pa.table({"type": pa.array(above, pa.string()), "above": pa.array(above.values(), pa.list_(pa.string()))})
    with pa.ipc.new_file(work / "closure.arrow", table.schema) as writer:
        writer.write_table(table)


@cache
def _load_closure(work: str) -> dict[str, tuple[str, ...]]:
    table = pa.ipc.open_file(pa.memory_map(f"{work}/closure.arrow")).read_all()
    return dict(zip(table["type"].to_pylist(), map(tuple, table["above"].to_pylist())))


# ----------------------------------------------------------------------------------------------------------- write


def _write_entities(work: Path, folder: Path, partitions: int, types: list[str]) -> Fingerprint:
    """Write entities in batches of `BATCH_ROWS`, their popularity and the index of their ids."""
    dictionary = pa.array(types, pa.string())
    of_types = pa.list_(pa.dictionary(pa.int32(), pa.string()))
    schema = ENTITY.set(ENTITY.get_field_index("types"), pa.field("types", of_types))
    fingerprint, popularity, hashes = Fingerprint(), [], []
    with pa.ipc.new_file(folder / layout.ENTITIES, schema) as writer:
        for table in _batches(work, partitions, hashes):
            fingerprint.add(table)
            popularity.append(table["popularity"].to_numpy())
            types_column = table["types"].combine_chunks()
            codes = pc.index_in(types_column.values, dictionary)
            encoded = pa.ListArray.from_arrays(types_column.offsets, pa.DictionaryArray.from_arrays(codes, dictionary))
            table = table.set_column(schema.get_field_index("types"), schema.field("types"), encoded)
            writer.write_table(table.cast(schema).combine_chunks())
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


def _write_aliases(
    work: Path, folder: Path, partitions: int, folding: Folding, max_owners: int
) -> tuple[int, int, int]:
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


def _write_context(folder: Path, rows: int, local_map: Map) -> None:
    """Fit the text vectors on the first entities (their order is random) and encode all."""
    source = pa.ipc.open_file(pa.memory_map(str(folder / layout.ENTITIES)))
    needed = range(min(source.num_record_batches, -(-CONTEXT_SAMPLE // BATCH_ROWS)))
    sample = pa.Table.from_batches([source.get_batch(number) for number in needed]).slice(0, CONTEXT_SAMPLE)
    (folder / layout.CONTEXT).mkdir()
    ContextSpace.fit(sample).save(folder / layout.CONTEXT)
    ContextSpace.create_entities(folder / layout.CONTEXT, rows).flush()
    for _ in local_map(partial(encode_batch, str(folder)), range(source.num_record_batches)):
        pass


def encode_batch(folder: str, number: int) -> None:
    """Encode one record batch of entities into its place in the file of text vectors."""
    space = ContextSpace.open(Path(folder) / layout.CONTEXT)
    batch = pa.ipc.open_file(pa.memory_map(f"{folder}/{layout.ENTITIES}")).get_batch(number)
    records = np.load(f"{folder}/{layout.CONTEXT}/entities.npy", mmap_mode="r+")
    start = number * BATCH_ROWS
    records[start : start + batch.num_rows] = space.encode_entities(batch)
    records.flush()

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
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raylab.errors import RaylabError
from raylab.kb import catalog as layout
from raylab.kb.catalog import KBInfo
from raylab.kb.enrich import Facts, read_facts
from raylab.kb.fingerprint import file_digests
from raylab.kb.is_a import ClassGraph, pair_table, write_pairs
from raylab.kb.merge import close_types, drop, has_type, merge
from raylab.kb.normalise import Folding
from raylab.kb.owners import Owners, owners_of
from raylab.kb.records import RAW, Piece, Report, read_spill, tables, write_spill
from raylab.kb.tabular import catalogue_pieces, read_catalogue, read_edges
from raylab.kb.wikidata import check_date, dump_date, dump_pieces, read_dump
from raylab.kb.write import Map, write_aliases, write_context, write_edges, write_entities
from raylab.schema import ENTITY, SCHEMA_VERSION
from raylab.storage import Folder, is_one_hosts

SPILL_TABLES = 10
SMALL_BYTES = 4 * 2**20
"""Input below this is not worth a second process."""
PAGES_OF_NO_ENTITY = ("Q4167410", "Q13406463", "Q4167836", "Q11266439", "Q17362920", "Q4663903", "Q15184295")
"""Disambiguation, list, category, template, duplicated, portal and module pages: dropped by their P31."""


@dataclass(frozen=True)
class BuildConfig:
    """Where a knowledge base comes from and where it goes."""

    out: str
    """The folder to make, or an address in a cloud bucket. A knowledge base that is there is replaced when the new one
    is complete."""
    catalogues: tuple[str, ...] = ()
    """JSON-lines or CSV files of entities, or miniworld://; those named first win where texts differ."""
    dump: tuple[str, ...] = ()
    """Wikidata JSON dumps (plain, .gz, .bz2) or saved answers of its API; they come before the catalogues."""
    dump_date: str | None = None
    """ISO date of the dump; without it, the date in the file's name."""
    popularity: tuple[str, ...] = ()
    """Page views or PageRank by id or title (JSON lines, CSV, TSV, Parquet): then the only popularity that counts."""
    summaries: tuple[str, ...] = ()
    """Wikipedia summaries by id or title, in the same formats."""
    type_edges: tuple[str, ...] = ()
    """JSON-lines or CSV files of ``qid, subclass_of`` pairs: types are closed over them, and those that the entities
    reach are kept."""
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
    shared_disk: bool = False
    """Out is a path of a disk that every node of the cluster mounts at the same place."""


Reader = Callable[[Piece, Report], Iterator[dict[str, Any]]]
"""Yields `schema.ENTITY` dicts of a piece and counts in the report what it cannot use."""


@dataclass(frozen=True)
class Input:
    """A piece and what reads it."""

    piece: Piece
    reader: Reader


def build(config: BuildConfig, read_map: Map | None = None) -> KBInfo:
    """Build a knowledge base into `config.out`.

    Args:
        config: what and where.
        read_map: runs the reading tasks; default: processes of this machine. All share its file system.

    Returns:
        What was built; the same as in its ``kb.json``.

    Raises:
        RaylabError: no input, an unreadable one, no sound line at all, a folder in the way, a full disk.
    """
    if not is_one_hosts(config.out):
        return _build_and_send(config, read_map)
    inputs = find_inputs(config)
    out = Path(config.out)
    check_place(out)
    try:
        with _work_folder(out) as work:
            with _processes(config.workers, inputs) as local_map:
                info = _build(config, inputs, work, read_map or local_map, local_map)
            _commit(work / "kb", out)
    except OSError as error:
        raise RaylabError(f"{out} cannot be written ({error}): free some space or name another folder.") from error
    except BrokenProcessPool as error:
        raise RaylabError("a process of the build was killed, often for want of memory: try --workers 1.") from error
    return info


def _build_and_send(config: BuildConfig, read_map: Map | None) -> KBInfo:
    """Build on this host's disk and copy the result to its address, ``kb.json`` last: readers look for it first."""
    target = Folder(config.out)
    if not target.exists(layout.INFO) and any(target.fs.find(target.path(""))):
        raise RaylabError(f"{config.out} is there and is no knowledge base: name another folder.")
    with tempfile.TemporaryDirectory(prefix="raylab-kb-") as work:
        made = Path(work) / "kb"
        info = build(replace(config, out=str(made)), read_map)
        for old in target.fs.find(target.path("")):
            target.fs.rm_file(old)
        for name in (*info.files, layout.INFO):
            target.put(made / name, name)
    return info


@contextmanager
def _work_folder(out: Path) -> Iterator[Path]:
    """Make a folder beside `out`, on the same disk, and take it away in the end."""
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}.building-", dir=out.parent))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def find_inputs(config: BuildConfig) -> list[Input]:
    """Cut all dumps and catalogues for reading; `RaylabError` for one that is not there, or if there is none."""
    inputs = [Input(piece, read_dump) for path in config.dump for piece in dump_pieces(path)]
    inputs += [Input(piece, read_catalogue) for path in config.catalogues for piece in catalogue_pieces(path)]
    if not inputs:
        raise RaylabError("there is nothing to build from: name a dump or at least one catalogue.")
    return inputs


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
    if workers < 2 or sum(one.piece.size for one in inputs) < SMALL_BYTES:
        yield map
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield pool.map


def _build(config: BuildConfig, inputs: list[Input], work: Path, read_map: Map, local_map: Map) -> KBInfo:
    folder = work / "kb"
    folder.mkdir()
    date = check_date(config.dump_date) if config.dump_date else dump_date(config.dump)
    folding = Folding.make()
    folding.save(folder / layout.ALIASES)
    reports, spills = _read(inputs, work, read_map)
    if not any(report.rows or report.dropped for report in reports):
        raise RaylabError(f"not one sound line in {', '.join(_paths(inputs))}: {_why(reports)}.")
    facts = [read_facts(paths, fact, work / fact) for fact, paths in _facts(config) if paths]
    graph = _class_graph(config, reports)
    above = graph.closure(sorted(set().union(*(report.types for report in reports))))
    settings = MergeSettings(
        tuple(spills), str(folder / layout.ALIASES), config.person_types, config.drop_types, len(above) > 0
    )
    _save_closure(above, work)
    partitions = _partitions(inputs)
    merged = list(local_map(partial(merge_partition, settings, str(work)), range(partitions)))
    for spill in spills:
        Path(spill).unlink()
    rows = sum(part.rows for part in merged)
    types = sorted(set().union(*(part.types for part in merged)))
    fingerprint = write_entities(work, folder, partitions, types)
    edges, edges_fingerprint = write_edges(folder, graph, types)
    aliases, owners, crowded = write_aliases(work, folder, partitions, folding, config.max_owners)
    if config.context and rows:
        write_context(folder, rows, local_map)
    dropped = sum((part.dropped for part in merged), Counter({"owner beyond max_owners": crowded}))
    info = KBInfo(
        schema_version=SCHEMA_VERSION,
        fingerprint=fingerprint.hexdigest(config.context, file_digests(folder / layout.ALIASES)),
        dump_date=date,
        entities=rows,
        aliases=aliases,
        owners=owners,
        dropped=dict(sorted((+dropped).items())),
        sources=_sources([*reports, *(report for part in facts for report in part)]),
        edges=edges,
        edges_fingerprint=edges_fingerprint,
        files={str(f.relative_to(folder)): f.stat().st_size for f in sorted(folder.rglob("*")) if f.is_file()},
    )
    info.save(folder)
    return info


def _facts(config: BuildConfig) -> list[tuple[str, tuple[str, ...]]]:
    return [("popularity", config.popularity), ("summary", config.summaries)]


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
        total.mended += report.mended
    names = ("path", "lines", "rows", "bad", "dropped", "mended", "samples")
    return [{name: _plain(getattr(total, name)) for name in names} for total in files.values()]


def _plain(value: Any) -> Any:
    """Return what JSON can hold."""
    return dict(value) if isinstance(value, Counter) else value


# ------------------------------------------------------------------------------------------------------------ read


def _partitions(inputs: list[Input]) -> int:
    """Return how many ranges of hashes to work on: about 16 MB of input each. The result does not depend on it."""
    packed = (".gz", ".bz2", ".xz", ".zst")
    size = sum(one.piece.size * (5 if one.piece.path.endswith(packed) else 1) for one in inputs)
    return min(max(1, size // (16 * 2**20)), 256)


def _read(inputs: list[Input], work: Path, read_map: Map) -> tuple[list[Report], list[str]]:
    stems = [str(work / f"spill-{number:06d}") for number in range(len(inputs))]
    reports = list(read_map(read_piece, list(zip(inputs, stems, [_partitions(inputs)] * len(inputs)))))
    return reports, [path for report in reports for path in report.spills]


def read_piece(task: tuple[Input, str, int]) -> Report:
    """Read one piece into spill files, a new one every `SPILL_TABLES` tables so that a file of any size fits.

    Args:
        task: what to read, the spill files' path up to their number, how many partitions they have.
    """
    one, stem, partitions = task
    report = Report(one.piece.path)

    found = tables(one.reader(one.piece, report))
    while some := list(islice(found, SPILL_TABLES)):
        for table in some:
            report.rows += table.num_rows
            report.types.update(pc.unique(pc.list_flatten(table["types"])).to_pylist())
        report.spills.append(f"{stem}-{len(report.spills):03d}.arrow")
        write_spill(some, Path(report.spills[-1]), partitions)
    if report.edges:
        report.edge_spills.append(f"{stem}-edges.arrow")
        write_pairs(pair_table(report.edges), Path(report.edge_spills[-1]))
        report.edges = []
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
    rows = _enriched(rows, Path(work))
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


def _enriched(rows: pa.Table, work: Path) -> pa.Table:
    """Join the facts that came in files of their own; a given popularity replaces what the sources say."""
    for fact in ("popularity", "summary"):
        if (work / fact).is_dir():
            found = Facts(work / fact).find(rows["id"], rows["title"])
            if fact == "summary":
                found = pc.coalesce(found, rows[fact])
            rows = rows.set_column(RAW.get_field_index(fact), RAW.field(fact), found)
    return rows


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


def _class_graph(config: BuildConfig, reports: list[Report]) -> ClassGraph:
    """Return all "subclass of" pairs of the input: of files of their own first, then what the readers came across."""
    given = [pair_table(read_edges(path)) for path in config.type_edges]
    found = [layout.open_table(Path(path)) for report in reports for path in report.edge_spills]
    return ClassGraph(pa.concat_tables([pair_table(()), *given, *found]))


def _save_closure(above: dict[str, tuple[str, ...]], work: Path) -> None:
    table = pa.table({"type": pa.array(above, pa.string()), "above": pa.array(above.values(), pa.list_(pa.string()))})
    with pa.ipc.new_file(work / "closure.arrow", table.schema) as writer:
        writer.write_table(table)


@cache
def _load_closure(work: str) -> dict[str, tuple[str, ...]]:
    table = pa.ipc.open_file(pa.memory_map(f"{work}/closure.arrow")).read_all()
    return dict(zip(table["type"].to_pylist(), map(tuple, table["above"].to_pylist())))

"""A knowledge base as the rest of raylab sees it: opened in milliseconds, mapped, shared by all processes of a node.

kb.json              what it is: versions, dump date, counts, what was left out and why, the size of every file
entities.arrow       `schema.ENTITY` rows, ascending by the hash of their id; types as a dictionary
names.arrow          their aliases and summaries, mapped when somebody asks: labeling does not
edges.arrow          pairs of a class and one above it (P279), of all classes that entities reach, where any were given
popularity.npy       float32 [entities], 0 where it is not known
ids/                 id -> row
aliases/             surface -> owners with priors
context/             text vectors for disambiguation, where they were built
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raylab.assets import fetch
from raylab.errors import RaylabError
from raylab.kb.aliases import AliasIndex
from raylab.kb.context import ContextSpace
from raylab.kb.hashing import HashIndex, hash_strings, open_array
from raylab.kb.records import take
from raylab.schema import ENTITY, SCHEMA_VERSION

INFO = "kb.json"
ENTITIES = "entities.arrow"
NAMES = "names.arrow"
EDGES = "edges.arrow"
POPULARITY = "popularity.npy"
IDS, ALIASES, CONTEXT = "ids", "aliases", "context"


def split(schema: pa.Schema) -> tuple[pa.Schema, pa.Schema]:
    """Return the schemas of ``entities.arrow`` and of ``names.arrow`` for a schema of all columns."""
    cold = ("aliases", "summary")
    hot = [field for field in schema if field.name not in cold]
    return pa.schema(hot, schema.metadata), pa.schema([schema.field(name) for name in cold], schema.metadata)


def open_table(path: Path) -> pa.Table:
    """Map an Arrow file."""
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def open_entities(folder: Path) -> pa.Table:
    """Map all columns of `schema.ENTITY`."""
    hot, cold = open_table(folder / ENTITIES), open_table(folder / NAMES)
    return pa.table({name: (cold if name in cold.column_names else hot)[name] for name in ENTITY.names})


@dataclass(frozen=True)
class KBInfo:
    """What a knowledge base is: the content of its ``kb.json``."""

    schema_version: int
    """`schema.SCHEMA_VERSION` of the raylab that built it."""
    fingerprint: str
    """32 hex digits over the entities and the index settings: the same input gives the same."""
    dump_date: str | None
    """ISO date of the Wikidata dump, null without one."""
    entities: int
    aliases: int
    """Distinct surfaces."""
    owners: int
    """Pairs of surface and entity."""
    dropped: dict[str, int]
    """What was left out after the files were read, by reason."""
    sources: list[dict[str, Any]]
    """Each input file: path, lines, rows, bad and dropped lines by reason, the first bad lines."""
    files: dict[str, int]
    """Path below the folder -> bytes: how a damaged copy is recognised."""
    edges: int = 0
    """"Subclass of" pairs that are kept; 0 in a knowledge base that was built before they were."""
    edges_fingerprint: str = ""
    """32 hex digits over them; not part of `fingerprint`, as no label depends on them."""

    def save(self, folder: Path) -> None:
        """Write ``kb.json``."""
        (folder / INFO).write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def open(cls, folder: Path) -> KBInfo:
        """Read ``kb.json``.

        Raises:
            RaylabError: there is none, it is damaged, or it is of another version.
        """
        path = folder / INFO
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise RaylabError(
                f"{folder} is no knowledge base ({INFO} is missing): make one with jobs/build_kb.py."
            ) from error
        except (OSError, ValueError) as error:
            raise RaylabError(f"{path} is damaged ({error}): build the knowledge base again.") from error
        version = fields.get("schema_version") if isinstance(fields, dict) else None
        if version != SCHEMA_VERSION:
            raise RaylabError(
                f"{folder} has schema version {version}, this raylab reads version {SCHEMA_VERSION}: "
                "build it again with jobs/build_kb.py, or use the raylab that built it."
            )
        try:
            return cls(**fields)
        except TypeError as error:
            raise RaylabError(f"{path} is damaged ({error}): build the knowledge base again.") from error


class Catalog:
    """The entities of a knowledge base and the ways to them.

    Attributes:
        info: what it is.
        ids: string [entities], memory-mapped Arrow, like the next three.
        titles: string.
        descriptions: string, nulls.
        types: list of strings (dictionary-encoded): an entity's own types first, then all above them.
        popularity: float32 [entities], 0 where it is not known.
        aliases: the alias index.
        context: text vectors for disambiguation, None where the build left them out.
    """

    def __init__(
        self,
        path: Path,
        info: KBInfo,
        hot: pa.Table,
        *,
        ids: HashIndex,
        popularity: np.ndarray,
        aliases: AliasIndex,
    ) -> None:
        self.path, self.info, self.popularity, self.aliases = path, info, popularity, aliases
        self._ids, self._hot = ids, hot
        self.ids, self.titles, self.descriptions, self.types = (
            hot[name] for name in ("id", "title", "description", "types")
        )

    @classmethod
    def open(cls, path: str | Path) -> Catalog:
        """Map a knowledge base; no content is read, so it takes milliseconds at any size.

        Args:
            path: its folder, or an address in a cloud bucket, of which each host keeps a copy (`mirror.local_copy`).

        Raises:
            RaylabError: it is missing, of another schema version, or damaged.
        """
        folder = Path(fetch(str(path)))
        info = KBInfo.open(folder)
        for name, size in info.files.items():
            file = folder / name
            found = file.stat().st_size if file.exists() else None
            if found != size:
                state = "is missing" if found is None else f"has {found} bytes instead of {size}"
                raise RaylabError(f"{file} {state}: the knowledge base is damaged, copy or build it again.")
        try:
            hot = open_table(folder / ENTITIES)
            popularity = open_array(folder / POPULARITY)
            ids, aliases = HashIndex.open(folder / IDS), AliasIndex.open(folder / ALIASES)
        except (OSError, ValueError, pa.ArrowInvalid) as error:
            raise RaylabError(f"{folder} is damaged ({error}): copy or build the knowledge base again.") from error
        return cls(folder, info, hot, ids=ids, popularity=popularity, aliases=aliases)

    @cached_property
    def entities(self) -> pa.Table:
        """All columns of `schema.ENTITY`, memory-mapped."""
        return open_entities(self.path)

    @cached_property
    def edges(self) -> pa.Table:
        """``below, above``: a class and one directly above it, of all classes that entities reach; memory-mapped.

        Raises:
            RaylabError: the knowledge base has none, or they are damaged.
        """
        if not self.info.edges:
            raise RaylabError(
                f"{self.path} keeps no 'subclass of' pairs: build it again with --type-edges FILE or from a dump "
                "(older knowledge bases never kept them)."
            )
        try:
            return open_table(self.path / EDGES)
        except (OSError, pa.ArrowInvalid) as error:
            raise RaylabError(f"{self.path / EDGES} is damaged ({error}): copy or build it again.") from error

    @property
    def summaries(self) -> pa.ChunkedArray:
        """String [entities], nulls; memory-mapped."""
        return self.entities["summary"]

    @cached_property
    def context(self) -> ContextSpace | None:
        """Text vectors for disambiguation, None where the build left them out."""
        return ContextSpace.open(self.path / CONTEXT) if (self.path / CONTEXT).is_dir() else None

    def __len__(self) -> int:
        return self.info.entities

    def rows(self, ids: Sequence[str] | pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Return the row of each id, int64 [n], -1 where it is unknown."""
        strings = ids if isinstance(ids, (pa.Array, pa.ChunkedArray)) else pa.array(ids, pa.string())
        return self._ids.find(hash_strings(strings))

    def take(self, rows: np.ndarray, columns: Sequence[str] = ("id", "title", "description")) -> pa.Table:
        """Return columns of some rows, in the order asked, copied out of the map.

        Args:
            rows: integer [n], any order, repeats allowed.
            columns: names of `schema.ENTITY`.
        """
        source = self._hot if set(columns) <= set(self._hot.column_names) else self.entities
        return take(source.select(list(columns)), np.asarray(rows))

    def texts(self, rows: np.ndarray) -> list[str]:
        """Return each entity as it is shown to a text encoder: ``title: description``, or the title alone."""
        found = self.take(rows, ("title", "description"))
        described = pc.binary_join_element_wise(found["title"], found["description"], ": ")
        return pc.coalesce(described, found["title"]).to_pylist()

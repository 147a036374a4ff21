"""The rows of a label store as a trainer finds them: which files, how many rows of each are of use, which entities."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raylab.errors import RaylabError
from raylab.kb.catalog import Catalog
from raylab.schema import check_version
from raylab.storage import Folder
from raylab.tasks.base import Collator, Parted
from raylab.tasks.classes import CLASSES
from raylab.train.order import Part

ALWAYS = ("row_id", "shard", "image", "entity_id")
EXAMPLES = "examples.json"
"""In a run's folder: the parts and their usable rows."""
POINTER = "checkpoints/LAST.json"
"""In a run's folder: the step of the last whole checkpoint."""
KINDS = {"labelled": ("labels",), "all": ("labels", "rejects")}
"""Which files of the store are read: rows that got a label, or all, as they came from the source."""


def checkpoint_name(step: int) -> str:
    """Return the folder of a step's checkpoint, in a run's folder."""
    return f"checkpoints/step-{step:010d}"


@dataclass(frozen=True)
class Survey:
    """What one file holds."""

    parts: tuple[Part, ...]
    """Its rows to train on, by group."""
    held: Part
    """Its rows that are held out."""
    left_out: int
    """Rows that the task cannot use."""
    entities: dict[str, int]
    """Entity id -> usable rows, held out or not: the class table knows also those that only held-out rows show."""
    has: Mapping[str, int] = field(default_factory=dict)
    """Part that the task learns -> rows that have it, for tasks that learn several of a row."""


def part_names(labels: Folder, kind: str) -> list[str]:
    """Return the files of a finished label store.

    Args:
        labels: the store's folder.
        kind: see `KINDS`.

    Raises:
        RaylabError: it is no label store, or not finished.
    """
    if not labels.exists("MANIFEST.json"):
        state = "is not finished: start its job again" if labels.exists("run.json") else "holds no label store"
        raise RaylabError(f"{labels.uri} {state} (MANIFEST.json is missing). jobs/label.py --out makes one.")
    manifest = labels.read_json("MANIFEST.json")
    return [name for field in KINDS[kind] for name in manifest[field]]


def read_part(labels: Folder, name: str, collator: Collator) -> tuple[pa.Table, int]:
    """Return a part's usable rows, the columns that the collator wants, and how many rows it cannot use.

    Raises:
        RaylabError: the file is of another schema version.
    """
    columns = list(dict.fromkeys([*ALWAYS, *collator.columns]))
    with labels.fs.open(labels.path(name), "rb") as handle:
        file = pq.ParquetFile(handle)
        check_version(file.schema_arrow, f"{labels.uri}/{name}")
        rows = file.read(columns)
    usable = collator.usable(rows)
    return rows.filter(pa.array(usable)), int((~usable).sum())


def held_out(rows: pa.Table, share: float) -> np.ndarray:
    """Return bool [n]: rows that are kept from training, to measure it by. It depends on the row's id alone."""
    return np.array([int(row_id[:8], 16) < share * 2**32 for row_id in rows["row_id"].to_pylist()], bool)


def group_numbers(rows: pa.Table, mix: Sequence[str]) -> np.ndarray:
    """Return int64 [n]: the group of each row, which is the number of the first pattern that its shard's name fits.

    Args:
        rows: with the column ``shard``.
        mix: patterns as of `fnmatch`; without any, all rows are of group 0.

    Raises:
        RaylabError: a shard's name that fits none.
    """
    if not mix:
        return np.zeros(rows.num_rows, np.int64)
    shards = rows["shard"].combine_chunks().dictionary_encode()
    fits = [[fnmatchcase(name, pattern) for pattern in mix] for name in shards.dictionary.to_pylist()]
    for name, found in zip(shards.dictionary.to_pylist(), fits):
        if not any(found):
            raise RaylabError(f"Rows of the shard {name!r} fit none of --data.mix {' '.join(mix)}: add a pattern.")
    numbers = np.array([found.index(True) for found in fits], np.int64)
    return numbers[shards.indices.to_numpy(zero_copy_only=False)]


def survey_part(labels: Folder, name: str, collator: Collator, share: float, mix: Sequence[str] = ()) -> Survey:
    """Count a part's usable rows and their entities; `share` of the rows is held out; `mix`: see `group_numbers`."""
    rows, left_out = read_part(labels, name, collator)
    held = held_out(rows, share)
    sizes = np.bincount(group_numbers(rows, mix)[~held], minlength=1)
    parts = tuple(Part(name, int(size), group) for group, size in enumerate(sizes))
    counts = pc.value_counts(rows["entity_id"].drop_null())
    entities = {one["values"].as_py(): one["counts"].as_py() for one in counts}
    has = {part: int(found.sum()) for part, found in collator.has(rows).items()} if isinstance(collator, Parted) else {}
    return Survey(parts, Part(name, int(held.sum())), left_out, entities, has)


def write_survey(out: Folder, kb: Catalog, found: Sequence[Survey]) -> dict[str, Any]:
    """Write `EXAMPLES` and `CLASSES`, and return what lies in the first.

    Raises:
        RaylabError: an entity is not in the knowledge base; a part that is to be learnt is in no row.
    """
    entities: collections.Counter[str] = collections.Counter()
    for one in found:
        entities.update(one.entities)
    _check_parts(found)
    _write_classes(out, kb, entities)
    examples = {
        "parts": [asdict(part) for one in found for part in one.parts if part.rows],
        "held": [asdict(one.held) for one in found if one.held.rows],
        "rows": sum(part.rows for one in found for part in one.parts),
        "left_out": sum(one.left_out for one in found),
        "classes": len(entities),
        "kb": kb.info.fingerprint,
    }
    out.write_json(EXAMPLES, examples)
    return examples


def check_mix(examples: dict[str, Any], mix: Sequence[str], batch: int) -> None:
    """Raise `RaylabError` where a group (see `group_numbers`) has fewer rows than its part of a batch."""
    for number, pattern in enumerate(mix):
        rows = sum(part["rows"] for part in examples["parts"] if part["group"] == number)
        if rows < batch // len(mix):
            raise RaylabError(
                f"{rows} rows of use come from shards that fit {pattern!r} (--data.mix), and a batch takes "
                f"{batch // len(mix)}: take a smaller --batch, labels that have such rows, or another --data.mix."
            )


def _check_parts(found: Sequence[Survey]) -> None:
    has: collections.Counter[str] = collections.Counter()
    for one in found:
        has.update(one.has)  # a part without rows stays there with 0
    lacking = [f"--task.targets.{part}" for part, rows in has.items() if not rows]
    if lacking and any(has.values()):  # where no row is of use at all, the run says that
        raise RaylabError(
            f"No row of the labels has what {', '.join(lacking)} wants to learn: give labels that were annotated, or "
            "set it to 0."
        )


def _write_classes(out: Folder, kb: Catalog, entities: dict[str, int]) -> None:
    ids = sorted(entities)
    rows = kb.rows(pa.array(ids, pa.string()))
    if missing := [ids[i] for i in np.flatnonzero(rows < 0)[:5]]:
        raise RaylabError(
            f"{int((rows < 0).sum())} entities of the labels are not in the knowledge base {kb.path}, such as "
            f"{', '.join(missing)}: give --kb the one that the labels were made with."
        )
    order = np.argsort(rows)
    columns = {
        "kb_row": pa.array(rows[order]),
        "entity_id": pa.array([ids[i] for i in order], pa.string()),
        "rows": pa.array([entities[ids[i]] for i in order], pa.int64()),
    }
    out.write_parquet(CLASSES, pa.table(columns))


def same_classes(one: Folder, other: Folder) -> bool:
    """Tell whether two runs number the same entities alike, so that a row of one's class table fits the other's."""
    if not (one.exists(CLASSES) and other.exists(CLASSES)):
        return False
    first, second = (folder.read_parquet(CLASSES, ["entity_id"])["entity_id"] for folder in (one, other))
    return first.equals(second)


def parts_of(examples: dict[str, Any], held: bool = False) -> tuple[Part, ...]:
    """Return the parts as `EXAMPLES` has them: of the rows to train on, or of those held out."""
    return tuple(Part(**one) for one in examples["held" if held else "parts"])

"""The label store: what a run has finished, committed so that a kill at any moment loses nothing and doubles nothing.

    run.json                fingerprints of config, input and knowledge base, checked on resume
    pieces/                 rows of unfinished segments; a piece that no commit names was never there
    segments/00012.json     the commit of a segment: its parts, its counts. Written last, whole or not at all
    labels/00012.parquet    `schema.LABEL`, in input order
    rejects/00012.parquet   `schema.REJECT`, in input order
    MANIFEST.json           the commit of the run, after the second pass: the parts that count

A segment is a run of input shards. Its rows arrive in any order, in pieces; when all row numbers 0..n-1 are there, the
pieces are merged in input order and the segment is committed. Part names follow from the segment alone.
"""

from __future__ import annotations

import collections
import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from raylab.config import differences, fingerprint
from raylab.errors import RaylabError
from raylab.schema import LABEL, REJECT, SCHEMA_VERSION, Reason, alive, check_version, reject, set_column
from raylab.storage import Folder

SEGMENT, ROW, SEGMENT_ROWS = "_segment", "_row", "_segment_rows"
"""Bookkeeping columns of a row in flight: its segment, its number in it, and on the segment's last row their count."""

PIECES = pa.schema([(SEGMENT, pa.int32()), ("piece", pa.string()), ("rows", pa.int64()), (SEGMENT_ROWS, pa.int64())])
"""What is reported of each piece written."""

_NO_TIME = {"worker_seconds": 0.0, "cpu_seconds": 0.0}

THREADS = 4
"""Segments that the driver merges, counts or cuts at once."""


def number(chunk: pa.Table, segment: int, first_row: int, segment_rows: int | None) -> pa.Table:
    """Add the bookkeeping columns to a chunk of a segment; `segment_rows` is known at its last chunk only."""
    n = chunk.num_rows
    last: list[int | None] = [None] * n
    if n and segment_rows is not None:
        last[-1] = segment_rows
    chunk = set_column(chunk, SEGMENT, pa.array(np.full(n, segment, np.int32)))
    chunk = set_column(chunk, ROW, pa.array(np.arange(first_row, first_row + n, dtype=np.int64)))
    return set_column(chunk, SEGMENT_ROWS, pa.array(last, pa.int64()))


def write_pieces(folder: Folder, batch: pa.Table) -> pa.Table:
    """Write finished rows as pieces, one for each segment in the batch, and return what was written as `PIECES`.

    Names are fresh each time: a retried task leaves an orphan that no commit names, never a double row.
    """
    written = []
    for segment in pc.unique(batch[SEGMENT]).to_pylist():
        rows = batch.filter(pc.equal(batch[SEGMENT], segment))
        piece = f"pieces/{segment:05d}-{uuid.uuid4().hex}.parquet"
        folder.write_parquet(piece, rows)
        written.append(
            {SEGMENT: segment, "piece": piece, "rows": len(rows), SEGMENT_ROWS: pc.max(rows[SEGMENT_ROWS]).as_py()}
        )
    return pa.Table.from_pylist(written, PIECES)


class OpenSegments:
    """Counts the pieces that arrive, and tells when a segment has all its rows."""

    def __init__(self) -> None:
        """Start with no piece."""
        self._pieces: dict[int, list[str]] = collections.defaultdict(list)
        self._rows: collections.Counter[int] = collections.Counter()
        self._total: dict[int, int] = {}

    def add(self, piece: dict[str, Any]) -> list[str] | None:
        """Take one row of `PIECES`; return all pieces of its segment if it is complete now."""
        segment = piece[SEGMENT]
        self._pieces[segment].append(piece["piece"])
        self._rows[segment] += piece["rows"]
        if piece[SEGMENT_ROWS] is not None:
            self._total[segment] = piece[SEGMENT_ROWS]
        if self._rows[segment] != self._total.get(segment):
            return None
        return self._pieces.pop(segment)

    def incomplete(self) -> list[int]:
        """Return the segments of which some pieces came, but not all."""
        return sorted(self._pieces)


def commit_segment(folder: Folder, segment: int, pieces: Sequence[str], steps: Sequence[str]) -> dict[str, Any]:
    """Merge the pieces of a complete segment into its two parts and write its commit.

    Returns:
        The commit: part names and counts per step, as it lies in ``segments/``.

    Raises:
        RaylabError: the pieces do not hold every row exactly once (a bug or damaged storage: nothing is committed).
    """
    rows = pa.concat_tables([folder.read_parquet(piece) for piece in pieces]).sort_by(ROW)
    if not np.array_equal(rows[ROW].to_numpy(), np.arange(len(rows))):
        raise RaylabError(f"Segment {segment} of {folder.uri} does not hold each row once. Start the same line again.")
    commit = commit_rows(folder, segment, rows, steps)
    for piece in pieces:
        folder.remove(piece)
    return commit


def commit_rows(folder: Folder, segment: int, rows: pa.Table, steps: Sequence[str]) -> dict[str, Any]:
    """Write the finished rows of a segment as its two parts, and its commit, which is returned."""
    commit = {"segment": segment, **_write_parts(folder, f"{segment:05d}", rows), "counts": count(rows, steps)}
    folder.write_json(_commit_name(segment), commit)
    return commit


def is_committed(folder: Folder, segment: int) -> bool:
    """Tell whether the commit of a segment is written."""
    return folder.exists(_commit_name(segment))


def _commit_name(segment: int) -> str:
    return f"segments/{segment:05d}.json"


def _write_parts(folder: Folder, name: str, rows: pa.Table) -> dict[str, str]:
    kept = alive(rows)
    labels, rejects = rows.filter(kept), rows.filter(pc.invert(kept))
    folder.write_parquet(f"labels/{name}.parquet", labels.select(LABEL.names).cast(LABEL))
    folder.write_parquet(f"rejects/{name}.parquet", rejects.select(REJECT.names).cast(REJECT))
    return {"labels": f"labels/{name}.parquet", "rejects": f"rejects/{name}.parquet"}


def count(rows: pa.Table, steps: Sequence[str]) -> dict[str, Any]:
    """Count what each step took in, refused and spent.

    Returns:
        ``{"rows", "labelled", "steps": {name: {"rows_in", "rejected": {reason: n}, "failed", "worker_seconds",
        "cpu_seconds"}}}``, the steps being ``source`` and those given.
    """
    left = collections.Counter(zip(rows["reject_step"].to_pylist(), rows["reject_reason"].to_pylist()))
    labelled = left.pop((None, None), 0)
    result: dict[str, Any] = {"rows": len(rows), "labelled": labelled, "steps": {}}
    remaining = len(rows)
    for step in ("source", *steps):
        mine = {reason: n for (name, reason), n in sorted(left.items(), key=str) if name == step}
        failed = sum(n for reason, n in mine.items() if Reason(reason).is_failure)
        result["steps"][step] = {
            "rows_in": remaining,
            "rejected": {reason: n for reason, n in mine.items() if not Reason(reason).is_failure},
            "failed": failed,
            "worker_seconds": _sum(rows, f"seconds_{step}"),
            "cpu_seconds": _sum(rows, f"cpu_{step}"),
        }
        remaining -= sum(mine.values())
    return result


def _sum(rows: pa.Table, column: str) -> float:
    return float(pc.sum(rows[column]).as_py() or 0.0) if column in rows.column_names else 0.0


def add_counts(counts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Add up what `count` returned for each segment."""
    total: dict[str, Any] = {"rows": 0, "labelled": 0, "steps": {}}
    for one in counts:
        total["rows"] += one["rows"]
        total["labelled"] += one["labelled"]
        for name, step in one["steps"].items():
            sums = total["steps"].setdefault(name, {"rows_in": 0, "rejected": {}, "failed": 0, **_NO_TIME})
            for key in ("rows_in", "failed", *_NO_TIME):
                sums[key] += step.get(key, 0)  # segments of an older version tell no CPU time
            for reason, n in step["rejected"].items():
                sums["rejected"][reason] = sums["rejected"].get(reason, 0) + n
    return total


def add_rare(counts: dict[str, Any], cut: int) -> dict[str, Any]:
    """Return the run's counts with the second pass as one more step, ``count``, that refused `cut` rows."""
    step = {"rows_in": counts["labelled"], "rejected": {}, "failed": 0, **_NO_TIME}
    if cut:
        step["rejected"] = {Reason.RARE_ENTITY.value: cut}
    return counts | {"labelled": counts["labelled"] - cut, "steps": counts["steps"] | {"count": step}}


def begin(folder: Folder, identity: dict[str, Any]) -> set[int]:
    """Start a run in the folder, or resume one: return the segments that are committed.

    Args:
        folder: the run's folder.
        identity: everything that decides the labels: config, input and knowledge base, as JSON-able values.

    Raises:
        RaylabError: the folder holds a run of another config, input, knowledge base or schema (the message names what
            differs), or files that are not a run's.
    """
    identity = {"schema_version": SCHEMA_VERSION, **identity}
    if not folder.exists("run.json"):
        if folder.exists("labels") or folder.exists("segments"):
            raise RaylabError(
                f"{folder.uri} has labels but no run.json, so nothing can resume there: choose another --out."
            )
        folder.write_json("run.json", identity | {"fingerprint": fingerprint(identity)})
    found = folder.read_json("run.json")
    if found.get("fingerprint") != fingerprint(identity):
        changed = "\n  ".join(differences({k: v for k, v in found.items() if k != "fingerprint"}, identity)[:12])
        raise RaylabError(
            f"{folder.uri} holds a run that cannot be resumed with this line, because these differ:\n  {changed}\n"
            "Give the old values, or choose another --out."
        )
    folder.remove("pieces")
    return {int(name.rsplit("/", 1)[-1].removesuffix(".json")) for name in folder.names("segments")}


def commits(folder: Folder) -> list[dict[str, Any]]:
    """Return the commits of all finished segments, in order."""
    return [folder.read_json(name) for name in folder.names("segments") if name.endswith(".json")]


def count_entities(folder: Folder, parts: Sequence[str]) -> pa.Table:
    """Count the labelled images of each entity in some label parts: ``entity_id, entity_name, images``.

    A label in free text, without an id, is no entity's.
    """
    columns = ["entity_id", "entity_name"]
    tables = [folder.read_parquet(part, columns) for part in parts]
    tables = [table.filter(pc.is_valid(table["entity_id"])) for table in tables]
    return merge_entity_counts(
        [table.append_column("images", pa.array(np.ones(len(table), np.int64))) for table in tables]
    )


def merge_entity_counts(counts: Sequence[pa.Table]) -> pa.Table:
    """Add up entity counts, most frequent first."""
    merged = pa.concat_tables(counts).group_by(["entity_id", "entity_name"]).aggregate([("images", "sum")])
    merged = merged.select(["entity_id", "entity_name", "images_sum"]).rename_columns(
        ["entity_id", "entity_name", "images"]
    )
    return merged.sort_by([("images", "descending"), ("entity_id", "ascending")])


def cut_rare(folder: Folder, commit: dict[str, Any], rare: pa.Array, least: int) -> dict[str, Any]:
    """Move a segment's labels of rare entities to its rejects, as new parts beside the old ones.

    Args:
        folder: the run's folder.
        commit: the segment's commit.
        rare: ids of the entities to cut.
        least: the number of images an entity needs, for the detail.

    Returns:
        ``{"labels", "rejects", "cut"}``: the parts that count now, and the rows moved.
    """
    untouched = {"labels": commit["labels"], "rejects": commit["rejects"], "cut": 0}
    if not len(rare):
        return untouched
    labels = folder.read_parquet(commit["labels"])
    is_rare = pc.is_in(labels["entity_id"], rare)
    cut = pc.sum(is_rare).as_py() or 0
    if not cut:
        return untouched
    moved = labels.filter(is_rare)
    for field in REJECT:
        if field.name not in moved.column_names:
            moved = moved.append_column(field, pa.nulls(len(moved), field.type))
    detail = f"fewer than {least} labelled images in the run"
    moved = reject(moved, "count", [Reason.RARE_ENTITY] * len(moved), [detail] * len(moved))
    rejects = pa.concat_tables([folder.read_parquet(commit["rejects"]), moved.select(REJECT.names).cast(REJECT)])
    name = f"{commit['segment']:05d}-cut"
    folder.write_parquet(f"labels/{name}.parquet", labels.filter(pc.invert(is_rare)).cast(LABEL))
    folder.write_parquet(f"rejects/{name}.parquet", rejects)
    return {"labels": f"labels/{name}.parquet", "rejects": f"rejects/{name}.parquet", "cut": cut}


def tidy(folder: Folder, manifest: dict[str, Any]) -> None:
    """Remove parts and pieces that the manifest does not name."""
    named = set(manifest["labels"]) | set(manifest["rejects"])
    for name in folder.names("labels") + folder.names("rejects"):
        if name not in named:
            folder.remove(name)
    folder.remove("pieces")


def is_label_store(uri: str) -> bool:
    """Tell whether a finished run lies there."""
    return "*" not in uri and "?" not in uri and Folder(uri).exists("MANIFEST.json")


class LabelStore:
    """A finished run, opened for reading.

    Args:
        uri: the run's folder.

    Raises:
        RaylabError: not a run, not finished, or of another schema version.
    """

    def __init__(self, uri: str) -> None:
        """Read the manifest."""
        self.folder = Folder(uri)
        if not self.folder.exists("MANIFEST.json"):
            hint = "it is not finished: start its line again" if self.folder.exists("run.json") else "not a label store"
            raise RaylabError(f"{uri} has no MANIFEST.json: {hint}.")
        self.manifest = self.folder.read_json("MANIFEST.json")

    def labels(self) -> ds.Dataset:
        """Return the labelled rows as a dataset of `schema.LABEL`."""
        return self._dataset(self.manifest["labels"], LABEL)

    def rejects(self) -> ds.Dataset:
        """Return the rows that left the flow, as a dataset of `schema.REJECT`."""
        return self._dataset(self.manifest["rejects"], REJECT)

    def _dataset(self, parts: list[str], schema: pa.Schema) -> ds.Dataset:
        if parts:
            with self.folder.fs.open(self.folder.path(parts[0]), "rb") as file:
                check_version(pq.read_schema(file), f"{self.folder.uri}/{parts[0]}")
        paths = [self.folder.path(part) for part in parts]
        return ds.dataset(paths, schema=schema, filesystem=self.folder.fs, format="parquet")

"""Runs the annotation job as a process of its own and kills parts of it: see `kills`."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq

from raylab.label.store import LabelStore

TARGETS = {"driver": "", "actor": "ray::MapWorker(", "engine": "VLLM::EngineCore"}
"""What is killed -> how its process's title begins."""


def job(labels: str, kb: str, out: str, *more: str) -> list[str]:
    """Return the command line that annotates a label store by the mini annotator."""
    line = [sys.executable, "jobs/label.py", "--recipe", "rew_miniworld", "--source", labels, "--kb", kb, "--out", out]
    return [*line, "--store.min-entity-images", "1", "--segment-rows", "64", "--annotator.batch-rows", "8", *more]


def answers(out: str) -> int:
    """Return how many answers lie in the folder of an unfinished run, and two for each row that is committed."""
    kept = sum(rows_in(path) for path in Path(out, "answers").rglob("*.parquet"))
    return kept + 2 * sum(rows_in(path) for path in Path(out, "labels").glob("*.parquet"))


def verified(out: str) -> set[str]:
    """Return the rows, by the number in their caption (``row 12 yes``), whose first answer is kept by now."""
    segments = json.loads(Path(out, "GROUPED.json").read_text())["segments"]
    found = set()
    for path in Path(out, "answers").rglob("*.parquet"):
        captions = pq.read_table(Path(out, segments[int(path.parent.name)]), columns=["caption"])["caption"]
        answers = pq.read_table(path, columns=["_row", "call"], partitioning=None).to_pylist()
        found |= {captions[one["_row"]].as_py().split()[1] for one in answers if one["call"] == "verify"}
    return found


def rows_in(path: Path) -> int:
    """Return the rows of a Parquet file; none where it went while it was looked at."""
    try:
        return pq.read_metadata(path).num_rows
    except FileNotFoundError:
        return 0


def to_annotate(labels: str) -> set[str]:
    """Return the ids of the rows that a run over a label store annotates."""
    store = LabelStore(labels)
    rejects = store.rejects().to_table(columns=["row_id", "reject_reason", "entity_id"]).to_pylist()
    reasons = ("low_score", "low_margin", "rare_entity")
    rescued = {row["row_id"] for row in rejects if row["reject_reason"] in reasons and row["entity_id"]}
    return rescued | set(store.labels().to_table(columns=["row_id"])["row_id"].to_pylist())


def annotated(out: str) -> Counter[str]:
    """Return how often each row id was annotated in the result."""
    store = LabelStore(out)
    tables = [store.labels().to_table(["row_id", "annotation"]), store.rejects().to_table(["row_id", "annotation"])]
    rows = [row for table in tables for row in table.to_pylist()]
    return Counter(row["row_id"] for row in rows if row["annotation"])


def all_rows(out: str) -> list[str]:
    """Return all row ids of a label store, sorted."""
    store = LabelStore(out)
    parts = [part.to_table(["row_id"])["row_id"].to_pylist() for part in (store.labels(), store.rejects())]
    return sorted(row for part in parts for row in part)

"""The second pass of a run: count the images of each entity, cut rare entities, commit the run.

It works in threads of the driver as the commits do: Arrow does the work, and no process has to start for it.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raylab.label import store
from raylab.storage import Folder

COUNTED_AT_ONCE = 64
"""Segments whose counts are added up before they meet those of others: what is held grows with the entities alone."""


def second_pass(folder: Folder, least: int) -> None:
    """Cut the entities with fewer than `least` labelled images, and write what counts now as ``MANIFEST.json``."""
    commits = store.commits(folder)
    with ThreadPoolExecutor(store.THREADS) as threads:
        counts = _count(folder, commits, threads)
        keep = pc.greater_equal(counts["images"], least)
        folder.write_parquet("entity_counts.parquet", counts.append_column("kept", keep))
        rare = counts.filter(pc.invert(keep))["entity_id"].combine_chunks()
        parts = list(threads.map(partial(store.cut_rare, folder, rare=rare, least=least), commits))
    counts_of_run = store.add_counts([commit["counts"] for commit in commits])
    manifest = {
        "labels": [part["labels"] for part in parts],
        "rejects": [part["rejects"] for part in parts],
        "counts": store.add_rare(counts_of_run, sum(part["cut"] for part in parts)),
        "entities": {"labelled": counts.num_rows - len(rare), "cut": len(rare)},
    }
    folder.write_json("MANIFEST.json", manifest)


def _count(folder: Folder, commits: list[dict[str, Any]], threads: ThreadPoolExecutor) -> pa.Table:
    parts = [commit["labels"] for commit in commits]
    groups = [parts[i : i + COUNTED_AT_ONCE] for i in range(0, len(parts), COUNTED_AT_ONCE)]
    return store.merge_entity_counts(list(threads.map(partial(store.count_entities, folder), groups)))

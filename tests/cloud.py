"""Moves what tests make on the disk to a bucket."""

from __future__ import annotations

import fsspec
import pyarrow as pa

from raylab.storage import Folder


def move_store(labels: str, to: str, pictures: str, pictures_to: str) -> str:
    """Copy a label store to an address; its rows name the pictures at `pictures_to` instead of at `pictures`."""
    fsspec.filesystem("s3").put(labels, to, recursive=True)
    store = Folder(to)
    manifest = store.read_json("MANIFEST.json")
    for part in manifest["labels"] + manifest["rejects"]:
        rows = store.read_parquet(part)
        moved = rows.to_pylist()
        for row in moved:
            row["image"] = row["image"] | {"uri": row["image"]["uri"].replace(pictures, pictures_to)}
        store.write_parquet(part, pa.Table.from_pylist(moved, rows.schema))
    return to

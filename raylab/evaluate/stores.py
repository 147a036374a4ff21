"""Label stores as evaluation reads them: by their schema and manifest alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from raylab.config import from_dict
from raylab.errors import RaylabError
from raylab.evaluate.datasets import open_images
from raylab.evaluate.image_set import Address, ImageSet
from raylab.schema import LABEL, REJECT, check_version
from raylab.sources import Source, SourceConfig, open_source
from raylab.storage import Folder

MANIFEST = "MANIFEST.json"


@dataclass(frozen=True, eq=False)
class Memory:
    """Pictures, and one or more ways to label them."""

    images: ImageSet
    labels: Mapping[str, Sequence[str | None]]
    """Name of the labels -> the label of each picture, None where it has none."""


def is_store(uri: str) -> bool:
    """Tell whether a finished label store lies there."""
    return "://?" not in uri and Folder(uri).exists(MANIFEST)


def open_part(uri: str, part: str) -> ds.Dataset:
    """Open the labels or the rejects of a finished store.

    Args:
        uri: the store's folder.
        part: ``labels`` or ``rejects``.

    Raises:
        RaylabError: no finished store, or one of another schema version.
    """
    folder = Folder(uri)
    if not folder.exists(MANIFEST):
        raise RaylabError(f"{uri} has no {MANIFEST}: no label store, or one that is not finished.")
    names = folder.read_json(MANIFEST)[part]
    if names:
        with folder.fs.open(folder.path(names[0]), "rb") as file:
            check_version(pq.read_schema(file), f"{uri}/{names[0]}")
    paths = [folder.path(name) for name in names]
    return ds.dataset(paths, schema={"labels": LABEL, "rejects": REJECT}[part], filesystem=folder.fs, format="parquet")


def open_memory(text: str) -> Memory:
    """Open a labelled memory: a label store, or a labelled set of images.

    A store's pictures are labelled by its entities. Where an annotator was asked, the pictures that it let pass are
    taken, and labelled twice: by the candidate that it was given (``candidate``) and by the entity that it left
    (``corrected``).

    Args:
        text: a folder, or a data set's address (`image_set.Address`).

    Raises:
        RaylabError: nothing is there, or no labelled picture.
    """
    address = Address.parse(text)
    if not is_store(address.uri):
        images = open_images(text)
        return Memory(images, {"given": images.labels})
    table = _label_columns(open_part(address.uri, "labels"))
    annotated = pc.any(table["annotated"]).as_py()
    if annotated:
        table = table.filter(table["annotated"])
    if not table.num_rows:
        raise RaylabError(f"{address.uri}: the store holds no labels.")
    final = table["entity_id"].to_pylist()
    names = {one: (name,) for one, name in zip(final, table["entity_name"].to_pylist()) if one and name}
    refs = [ref or {"uri": None, "offset": 0, "size": -1} for ref in table["image"].to_pylist()]
    labels = [one or "" for one in final]
    images = ImageSet(address.uri, _source_of(address.uri), refs, labels, names)
    if annotated:
        return Memory(images, {"candidate": table["candidate_id"].to_pylist(), "corrected": final})
    return Memory(images, {"labelled": final})


def _label_columns(labels: ds.Dataset) -> pa.Table:
    columns: dict[str, Any] = {name: pc.field(name) for name in ("image", "entity_id", "entity_name")}
    columns["annotated"] = pc.is_valid(pc.field("annotation"))
    columns["candidate_id"] = pc.field("annotation", "candidate_id")
    return labels.to_table(columns=columns)


def _source_of(uri: str) -> Source:
    """Return the source that a store's images are in; that of a store made from a store is the first one's."""
    folder = Folder(uri)
    if not folder.exists("config.json"):
        raise RaylabError(f"{uri} has no config.json, which says where its images are.")
    config = from_dict(SourceConfig, folder.read_json("config.json")["source"])
    return _source_of(config.uri) if is_store(config.uri) else open_source(config)

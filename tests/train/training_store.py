"""A label store whose labels are the truth, with rationales and questions, made without a labeling run."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from raylab.kb.build import BuildConfig, build
from raylab.kb.catalog import Catalog
from raylab.schema import LABEL, REJECT, row_id
from raylab.sources.miniworld.entities import BY_ID
from raylab.sources.miniworld.make_clip import shrink
from raylab.sources.miniworld.questions import questions
from raylab.sources.miniworld.samples import Sample, picture, sample

SEED = 77


@dataclass(frozen=True)
class Store:
    """What a training run is started with."""

    labels: str
    kb: str
    source: str


def make_store(folder: Path, rows: int = 96, parts: int = 3) -> Store:
    """Write a knowledge base and a label store of `rows` rows in so many parts; rows that show nothing are rejects."""
    kb = folder / "kb"
    build(BuildConfig(catalogues=("miniworld://",), out=str(kb)))
    pictures = str(folder / "pairs.parquet")
    _write_pairs(pictures, rows)
    labels = folder / "labels"
    manifest: dict[str, list[str]] = {"labels": [], "rejects": []}
    for part in range(parts):
        samples = [sample(SEED, i) for i in range(part * rows // parts, (part + 1) * rows // parts)]
        for kind, schema in (("labels", LABEL), ("rejects", REJECT)):
            chosen = [_row(one, pictures) for one in samples if bool(one.entity_ids) == (kind == "labels")]
            name = f"{kind}/{part:05d}.parquet"
            (labels / kind).mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.Table.from_pylist(chosen, schema), labels / name)
            manifest[kind].append(name)
    (labels / "MANIFEST.json").write_text(json.dumps(manifest))
    (labels / "run.json").write_text(json.dumps({"kb": Catalog.open(kb).info.fingerprint}))
    return Store(str(labels), str(kb), pictures)


def _write_pairs(path: str, rows: int) -> None:
    """Paint the pictures once, of the size that the small networks take."""
    samples = [sample(SEED, i) for i in range(rows)]
    pairs = [{"key": f"{one.index:09d}", "caption": one.caption.text, "image": _jpeg(one)} for one in samples]
    pq.write_table(pa.Table.from_pylist(pairs), path)


def _jpeg(one: Sample) -> bytes:
    buffer = io.BytesIO()
    shrink(picture(one)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def _row(one: Sample, pictures: str) -> dict:
    key = f"{one.index:09d}"
    shard = "query_train" if len(one.entity_ids) > 1 else "entity_train"
    row = {"row_id": row_id("shard", key), "shard": shard, "key": key}
    row["image"] = {"uri": pictures, "offset": one.index, "size": -1}
    row |= {"caption": one.caption.text if one.index % 40 else "", "truth": list(one.entity_ids), "score": 1.0}
    if one.entity_ids:
        entity = BY_ID[one.entity_ids[0]]
        pairs = [{"question": asked.question, "answer": asked.entity_text} for asked in questions(one)]
        annotation = {"rationale": f"It shows {entity.description}.", "questions": pairs}
        row |= {"entity_id": entity.id, "entity_name": entity.title, "annotation": annotation}
    return row

"""A labeling run that knows no common disk: pairs, knowledge base and labels lie in a bucket."""

from __future__ import annotations

from pathlib import Path

import fsspec
from label.test_run import POOLS, ToyConfig
from train.training_store import _write_pairs

from raylab.evaluate.stores import open_memory
from raylab.kb.build import BuildConfig, build
from raylab.kb.catalog import Catalog
from raylab.label.plan import StoreConfig
from raylab.label.run import run
from raylab.label.store import LabelStore
from raylab.sources.base import SourceConfig

ROWS = 200


def rows_of(out: str) -> list[dict]:
    store = LabelStore(out)
    labels = store.labels().to_table(columns=["row_id", "entity_id", "caption"]).to_pylist()
    rejects = store.rejects().to_table(columns=["row_id", "reject_reason", "caption"]).to_pylist()
    return sorted(labels + rejects, key=lambda row: row["row_id"])


def test_a_run_in_a_bucket_equals_one_on_a_disk(ray_cluster: None, bucket: str, tmp_path: Path) -> None:
    source = str(tmp_path / "pairs.parquet")
    _write_pairs(source, ROWS)
    fsspec.filesystem("s3").put_file(source, f"{bucket}/pairs/pairs.parquet")
    made = {place: build(BuildConfig(f"{place}/kb", ("miniworld://",), context=False)) for place in (tmp_path, bucket)}
    assert made[bucket] == made[tmp_path]
    assert Catalog.open(f"{bucket}/kb").info == made[bucket]
    summaries = [
        run(
            ToyConfig(
                source=SourceConfig(uri=uri, chunk_rows=50),
                kb=f"{place}/kb",
                out=f"{place}/run",
                pools=POOLS,
                store=StoreConfig(1, 2),
            )
        )
        for place, uri in ((tmp_path, source), (bucket, f"{bucket}/pairs/pairs.parquet"))
    ]
    assert rows_of(f"{bucket}/run") == rows_of(f"{tmp_path}/run")
    assert len(rows_of(f"{bucket}/run")) == ROWS
    assert {key: summaries[1][key] for key in ("rows_in", "labelled", "rejected", "failed", "reasons")} == {
        key: summaries[0][key] for key in ("rows_in", "labelled", "rejected", "failed", "reasons")
    }
    on_disk = {path.relative_to(tmp_path).as_posix() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    in_bucket = {path.partition("/")[2] for path in fsspec.filesystem("s3").find(f"{bucket}/run")}
    assert in_bucket == on_disk
    assert len(open_memory(f"{bucket}/run").images) == summaries[1]["labelled"]

"""An annotation run that knows no common disk: pictures, knowledge base, candidates and answers lie in a bucket."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
from annotate.rew_world import Oracle, make_labels, serve
from annotate.test_run import config_of, rows_of
from cloud import move_store

from raylab.annotate.run import run
from raylab.kb.build import BuildConfig, build
from raylab.storage import Folder


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_in_a_bucket(ray_cluster: None, bucket: str, tmp_path: Path) -> None:
    build(BuildConfig(out=f"{bucket}/kb", catalogues=("miniworld://",), workers=1, context=False))
    labels = make_labels(tmp_path, f"{bucket}/kb", ["yes", "no", "unknown", "nothing"] * 5)
    fsspec.filesystem("s3").put(str(tmp_path / "images"), f"{bucket}/images", recursive=True)
    cloud = Folder(move_store(labels, f"{bucket}/labels", str(tmp_path), bucket))
    known = cloud.read_json("config.json")
    cloud.write_json("config.json", known | {"source": known["source"] | {"uri": f"{bucket}/images/table.jsonl"}})
    with serve(Oracle()) as server:
        config = config_of(cloud.uri, f"{bucket}/kb", tmp_path, server.url)
        summary = run(replace(config, out=f"{bucket}/out"))
    rows = rows_of(f"{bucket}/out")
    assert summary["rows_in"] == 20 == len(rows)
    assert (summary["annotation"]["verified"], summary["annotation"]["corrected"]) == (5, 10)
    assert all(row["image"]["uri"].startswith(bucket) for row in rows.values())
    assert Folder(f"{bucket}/out").names("answers") == []

"""An evaluation that knows no common disk: model and scores lie in a bucket."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

from raylab.errors import RaylabError
from raylab.evaluate.models import find_model
from raylab.evaluate.run import run
from raylab.recipes.evaluate import smoke
from raylab.sources.miniworld.make_clip import SHIPPED
from raylab.storage import Folder


def test_a_model_in_a_bucket_scores_as_on_a_disk(bucket: str, tmp_path: Path) -> None:
    fsspec.filesystem("s3").put(str(SHIPPED), f"{bucket}/run/model", recursive=True)
    fsspec.filesystem("s3").pipe_file(f"{bucket}/run/checkpoints/large", bytes(1000))
    config = replace(smoke(), suite="retrieval", threads=1)
    cloud = run(replace(config, model=f"{bucket}/run", out=f"{bucket}/scores"))
    local = run(replace(config, model=str(SHIPPED), out=str(tmp_path / "scores")))
    assert cloud["scores"] == local["scores"]
    out = Folder(f"{bucket}/scores")
    assert out.read_json("scores.json")["scores"] == cloud["scores"]
    assert out.exists("report.html") and out.exists("config.json")
    copies = [path.name for path in Path(find_model(f"{bucket}/run")).parents[1].rglob("*")]
    assert "open_clip_model.safetensors" in copies and "large" not in copies


def test_a_bucket_without_a_model(bucket: str) -> None:
    with pytest.raises(RaylabError, match=r"neither open_clip_config.json nor git.json there"):
        find_model(f"{bucket}/nothing")


@pytest.mark.slow
def test_workers_open_the_model_from_the_bucket(ray_cluster: None, bucket: str) -> None:
    fsspec.filesystem("s3").put(str(SHIPPED), f"{bucket}/run/model", recursive=True)
    config = replace(smoke(), suite="retrieval", threads=1, model=f"{bucket}/run", out=f"{bucket}/scores")
    by_workers = run(replace(config, workers=1, num_cpus=0.5))
    assert by_workers["scores"] == run(replace(config, out=f"{bucket}/alone"))["scores"]

"""A training run that knows no common disk: pictures, labels, knowledge base, checkpoints and model lie in a bucket."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
from cloud import move_store
from train.runs import small, train
from train.training_store import Store

from raylab.evaluate.models import ModelConfig, open_model
from raylab.storage import Folder
from raylab.train.checkpoint import Checkpoints
from raylab.train.export import export
from raylab.train.plan import CheckpointConfig, TrackConfig, TrainConfig
from raylab.train.run import run
from raylab.train.worker import Run


@pytest.fixture
def cloud_store(store: Store, bucket: str) -> Store:
    """The store, and the pictures that its labels name, in a bucket."""
    pairs, kb = f"{bucket}/pairs.parquet", f"{bucket}/kb"
    fsspec.filesystem("s3").put_file(store.source, pairs)
    fsspec.filesystem("s3").put(store.kb, kb, recursive=True)
    return Store(move_store(store.labels, f"{bucket}/labels", store.source, pairs), kb, pairs)


def with_tower(config: TrainConfig, tower: Path) -> TrainConfig:
    encoder = replace(config.task.encoder, name=str(tower))  # type: ignore[attr-defined]
    return replace(config, task=replace(config.task, encoder=encoder))  # type: ignore[type-var]


def test_a_run_in_a_bucket_goes_on_and_equals_one_on_a_disk(
    store: Store, cloud_store: Store, bucket: str, tower: Path, tmp_path: Path
) -> None:
    local = train(with_tower(small("mofi_miniworld", store, tmp_path / "run"), tower))
    config = replace(with_tower(small("mofi_miniworld", cloud_store, tmp_path), tower), out=f"{bucket}/run")
    before = train(replace(config, steps=4))
    after = train(config)
    assert sorted(after) == [5, 6]
    losses = {step: point["loss"] for step, point in (before | after).items()}
    assert losses == {step: pytest.approx(point["loss"], rel=1e-5) for step, point in local.items()}
    out = Folder(config.out)
    assert Checkpoints(out).latest() == 6
    steps = {match[1] for name in out.names("checkpoints") if (match := re.search(r"step-(\d+)", name))}
    assert steps == {"0000000004", "0000000006"}, "older ones are removed"
    model = export(Run(config, out.read_json("examples.json")))
    assert model == f"{bucket}/run/model"
    encoder = open_model(ModelConfig(config.out)).embedder
    assert encoder is not None and encoder.dim > 0


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_under_ray(
    ray_cluster: None, cloud_store: Store, bucket: str, tower: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = with_tower(small("mofi_miniworld", cloud_store, Path("unused")), tower)
    config = replace(
        config,
        out=f"{bucket}/run",
        steps=4,
        parallel=replace(config.parallel, workers=2, cpus=0.5),
        checkpoint=CheckpointConfig(every=2),
        track=TrackConfig(every=1, samples=0),
    )
    summary = run(config)
    assert summary["model"] == f"{bucket}/run/model"
    out = Folder(config.out)
    points = [json.loads(line) for line in out.read_bytes("curves.jsonl").decode().splitlines()]
    assert [point["step"] for point in points] == [1, 2, 3, 4]
    files = fsspec.filesystem("s3").find(f"{bucket}/run/wandb")
    assert any(name.endswith(".wandb") for name in files), "W&B's own files outlive the host"

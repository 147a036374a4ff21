"""Training under Ray Train and Ray Data: two workers make the steps of one, and tell; what ends a run says so."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from train.runs import small, train
from train.training_store import Store

from raylab.errors import RaylabError
from raylab.train.plan import CheckpointConfig, TrackConfig, TrainConfig
from raylab.train.run import run


@pytest.fixture
def config(store: Store, tower: Path, tmp_path: Path) -> TrainConfig:
    """MOFI on a tower without batch statistics."""
    made = small("mofi_miniworld", store, tmp_path / "run", steps=8, checkpoint=CheckpointConfig(every=4))
    encoder = replace(made.task.encoder, name=str(tower))  # type: ignore[attr-defined]
    data = replace(made.data, held_out=0.2)
    return replace(made, data=data, task=replace(made.task, encoder=encoder))  # type: ignore[type-var]


@pytest.mark.timeout(300)
def test_two_workers_make_the_steps_of_one_and_tell(
    ray_cluster: None, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    config = replace(config, out="run")  # as people write it: workers have another working directory
    alone = train(replace(config, out=str(tmp_path / "alone")))
    told = replace(
        config,
        parallel=replace(config.parallel, workers=2, cpus=0.5),
        track=TrackConfig(every=1, evaluate_every=4, samples=2),
    )
    summary = run(told)
    lines = (tmp_path / "run" / "curves.jsonl").read_text().splitlines()
    points = {point["step"]: point for point in map(json.loads, lines)}
    assert sorted(points) == list(range(1, 9))
    for step, point in points.items():
        assert point["loss"] == pytest.approx(alone[step]["loss"], rel=1e-3)
    assert summary["last"]["held_out/loss"] == points[8]["held_out/loss"]
    assert (tmp_path / "run" / "model" / "open_clip_model.safetensors").exists()
    assert list(tmp_path.glob("run/wandb/offline-run-*/*.wandb"))
    assert list(tmp_path.glob("run/wandb/offline-run-*/files/media/images/*.png"))

    assert run(told) == summary  # there is nothing left to do
    with pytest.raises(RaylabError, match=r"another config:\n  batch: 16 -> 8"):
        run(replace(told, batch=8))
    assert (tmp_path / "run" / "curves.jsonl").read_text().splitlines() == lines


def test_more_rows_a_batch_than_there_are(ray_cluster: None, config: TrainConfig) -> None:
    with pytest.raises(RaylabError, match=r"rows of use for mofi_miniworld .* a batch takes 1000"):
        run(replace(config, batch=1000))


@pytest.mark.slow
def test_pictures_that_are_gone_end_the_run_at_once(ray_cluster: None, config: TrainConfig, tmp_path: Path) -> None:
    moved = tmp_path / "labels"
    shutil.copytree(config.labels, moved)
    for part in (moved / "labels").iterdir():
        rows = pq.read_table(part)
        gone = [row | {"image": row["image"] | {"uri": "/nowhere/pairs.parquet"}} for row in rows.to_pylist()]
        pq.write_table(pa.Table.from_pylist(gone, rows.schema), part)
    with pytest.raises(RaylabError, match=r"pictures in a row could be opened"):
        run(replace(config, labels=str(moved)))

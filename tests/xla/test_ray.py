"""A run by torch-xla under Ray Train."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from train.runs import train
from train.training_store import Store
from xla.small_runs import config_of

from raylab.errors import RaylabError
from raylab.train.plan import TrackConfig
from raylab.train.run import run

pytest.importorskip("torch_xla", reason="torch-xla has an environment of its own: make test-xla")


@pytest.mark.timeout(600)
def test_under_ray_train(ray_cluster: None, store: Store, tower: Path, tmp_path: Path) -> None:
    track = TrackConfig(every=1, evaluate_every=3, samples=0, project="")
    config = replace(config_of("clip_miniworld", store, tower, tmp_path / "run", cpus=0.5), steps=2, track=track)
    expected = train(replace(config, out=str(tmp_path / "cpu")))
    found = run(replace(config, out=str(tmp_path / "xla"), accelerator="xla"))
    assert found["last"]["loss"] == pytest.approx(expected[2]["loss"], rel=1e-4)
    assert found["last"]["programs"] > 0
    assert (tmp_path / "xla" / "model" / "open_clip_model.safetensors").exists()
    two = replace(config, out=str(tmp_path / "two"), accelerator="xla", parallel=replace(config.parallel, workers=2))
    with pytest.raises(RaylabError, match="without a TPU: one worker alone"):
        run(two)

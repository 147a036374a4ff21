"""Masked pictures, views, transfer, DeViSE: the CPU trainer's losses, and nothing compiled once all was done."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from train.runs import prepared, small
from train.training_store import Store
from xla.small_runs import STEPS, WARM, cpu_points, on_xla
from xla.test_losses import check

from raylab.models.captioner import CaptionShape
from raylab.models.mae import PixelShape
from raylab.train.plan import CheckpointConfig, ParallelConfig, TrackConfig, TrainConfig

pytest.importorskip("torch_xla", reason="torch-xla has an environment of its own: make test-xla")


def config_of(recipe: str, store: Store, out: Path) -> TrainConfig:
    """A run as of `small_runs.config_of`, small; what is random in a block or in noise is left out."""
    config: Any = small(recipe, store, out, steps=STEPS, checkpoint=CheckpointConfig(every=WARM))
    task = replace(config.task, encoder=replace(config.task.encoder, width=32, layers=2))
    if recipe == "mug_miniworld":
        shapes = {"pixels": PixelShape(width=32, layers=1, heads=2)}
        task = replace(task, **shapes, text=CaptionShape(width=32, layers=1, heads=2, length=8))
    if recipe == "finetune_miniworld":
        task = replace(task, drop_path=0.0, mixing=replace(task.mixing, mixup=0.8, cutmix=1.0))
    return replace(
        config,
        task=task,
        accelerator="cpu",
        data=replace(config.data, held_out=0.2),
        track=TrackConfig(every=1, evaluate_every=WARM, samples=4, project=""),
        parallel=ParallelConfig(threads=1),
    )


@pytest.mark.timeout(600)
@pytest.mark.parametrize("recipe", ["mug_miniworld", "simclr_miniworld", "finetune_miniworld"])
def test_a_mesh_of_four(recipe: str, store: Store, tmp_path: Path) -> None:
    run = prepared(config_of(recipe, store, tmp_path / "run"))
    check(on_xla(run), cpu_points(run))


@pytest.mark.timeout(600)
def test_both_stages_of_devise(store: Store, tmp_path: Path) -> None:
    """The second one begins with what the first one saved on XLA."""
    first = prepared(config_of("devise_miniworld", store, tmp_path / "first"))
    check(on_xla(first), cpu_points(first))
    second = config_of("devise_tuned_miniworld", store, tmp_path / "second")
    second_run = prepared(replace(second, init=first.config.out))
    check(on_xla(second_run), cpu_points(second_run))

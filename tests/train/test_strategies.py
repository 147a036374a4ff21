"""Many workers, sharded or not, make the steps that one would; a run goes on with another number of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from distributed_workers import run_workers
from train.runs import Told, prepared, small
from train.training_store import Store

from raylab.train.export import export
from raylab.train.loop import Curve
from raylab.train.plan import CheckpointConfig, ParallelConfig, TrainConfig
from raylab.train.worker import Run, read_here, work


def _worker(rank: int, world: int, run: Run) -> dict[int, Curve]:
    told = Told(lambda step, point: None)
    work(run, read_here, told)
    return told.points


def losses(config: TrainConfig, world: int) -> dict[int, float]:
    run = prepared(config)
    points = _worker(0, 1, run) if world == 1 else run_workers(_worker, world, run)[0]
    return {step: point["loss"] for step, point in points.items()}


def _looker(rank: int, world: int, run: Run) -> tuple[dict[int, float], list[str]]:
    """Return the losses, and what was shown of pictures at last."""
    told = Told(lambda step, point: None)
    work(run, read_here, told)
    return {step: point["loss"] for step, point in told.points.items()}, [text for _, text in told.pictures]


def mofi(store: Store, tower: Path, out: Path, strategy: str, steps: int = 4) -> TrainConfig:
    """MOFI on a tower without batch statistics, which each worker would have of its own rows."""
    config = small("mofi_miniworld", store, out, steps=steps, batch=8, checkpoint=CheckpointConfig(every=2))
    encoder = replace(config.task.encoder, name=str(tower))  # type: ignore[attr-defined]
    task = replace(config.task, encoder=encoder)  # type: ignore[type-var]
    return replace(config, task=task, parallel=ParallelConfig(threads=1, strategy=strategy))


def test_two_sharded_workers_make_the_steps_of_one(store: Store, tower: Path, tmp_path: Path) -> None:
    alone = losses(mofi(store, tower, tmp_path / "alone", "ddp"), 1)
    both = losses(mofi(store, tower, tmp_path / "both", "fsdp"), 2)
    assert both == pytest.approx(alone, rel=1e-3)
    export(prepared(mofi(store, tower, tmp_path / "both", "fsdp")))
    assert (tmp_path / "both" / "model" / "open_clip_model.safetensors").exists()


def test_two_sharded_workers_say_of_pictures_what_one_says(store: Store, tower: Path, tmp_path: Path) -> None:
    """And go on as if they had not been asked."""
    made = small("git_miniworld", store, tmp_path / "alone", batch=8)
    track = replace(made.track, evaluate_every=2, samples=3)
    task = replace(made.task, encoder=replace(made.task.encoder, name=str(tower)))  # type: ignore[attr-defined, type-var]
    alone = replace(made, task=task, track=track, data=replace(made.data, held_out=0.3))
    alone = replace(alone, optim=replace(made.optim, warmup_steps=1))
    losses, said = _looker(0, 1, prepared(alone))
    both = replace(alone, out=str(tmp_path / "both"), parallel=ParallelConfig(threads=1, strategy="fsdp"))
    (found, shown), (_, none) = run_workers(_looker, 2, prepared(both))
    assert len(said) == 3
    assert shown == said
    assert none == []
    assert found == pytest.approx(losses, rel=1e-3)


def test_a_run_goes_on_with_another_number_of_workers(store: Store, tower: Path, tmp_path: Path) -> None:
    whole = losses(mofi(store, tower, tmp_path / "whole", "ddp"), 1)
    config = mofi(store, tower, tmp_path / "moved", "fsdp")

    def stop(step: int, point: Curve) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work(prepared(config), read_here, Told(stop))
    moved = losses(config, 2)
    assert sorted(moved) == [3, 4]
    assert moved == pytest.approx({step: whole[step] for step in moved}, rel=1e-3)


def test_passes_add_up_to_a_step(store: Store, tower: Path, tmp_path: Path) -> None:
    """Of a softmax over all classes: a contrastive loss sees one pass's rows alone."""
    config = mofi(store, tower, tmp_path / "one", "ddp")
    config = replace(config, task=replace(config.task, supervised_weight=1.0))  # type: ignore[type-var]
    whole = losses(config, 1)
    parts = replace(config, out=str(tmp_path / "two"), parallel=replace(config.parallel, accumulate=2))
    assert losses(parts, 1) == pytest.approx(whole, rel=1e-4)


def test_bfloat16_stays_near(store: Store, tower: Path, tmp_path: Path) -> None:
    config = mofi(store, tower, tmp_path / "fp32", "ddp")
    half = replace(config, out=str(tmp_path / "bf16"), parallel=replace(config.parallel, precision="bf16"))
    whole, found = losses(config, 1), losses(half, 1)
    assert found == pytest.approx(whole, rel=0.05)
    assert found != whole

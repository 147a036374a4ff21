"""Many workers, sharded or not, make the steps that one would; a run goes on with another number of them."""

from __future__ import annotations

import json
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


Points = dict[tuple[int, str], float]


def found(config: TrainConfig, world: int) -> Points:
    """Return losses, the norms of gradients (Adam hides a wrong one) and what held-out rows were like, by step."""
    run = prepared(config)
    points = _worker(0, 1, run) if world == 1 else run_workers(_worker, world, run)[0]
    told = ("loss", "gradient_norm")
    return {
        (step, name): value
        for step, point in points.items()
        for name, value in point.items()
        if name in told or name.startswith("held_out/")
    }


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
    alone, both = (
        looking(mofi(store, tower, tmp_path / name, strategy))
        for name, strategy in (("alone", "ddp"), ("both", "fsdp"))
    )
    expected = found(alone, 1)
    assert {name for _, name in expected} > {"gradient_norm", "held_out/class_top1", "held_out/neighbour_top1"}
    assert found(both, 2) == pytest.approx(expected, rel=1e-3)
    export(prepared(both))
    assert (tmp_path / "both" / "model" / "open_clip_model.safetensors").exists()


def looking(config: TrainConfig) -> TrainConfig:
    """Look at rows that are held out."""
    return replace(config, data=replace(config.data, held_out=0.4), track=replace(config.track, evaluate_every=2))


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_towers_of_timm_with_a_siglips_bias(strategy: str, store: Store, tower: Path, tmp_path: Path) -> None:
    """The bias rests, and says so to DDP; timm's blocks are sharded."""
    path = tower / "open_clip_config.json"
    made = json.loads(path.read_text())
    made["model_cfg"] |= {"custom_text": True, "init_logit_bias": -10.0}
    made["model_cfg"]["vision_cfg"] = {
        "timm_model_name": "test_vit",
        "timm_model_pretrained": False,
        "timm_proj": "linear",
        "image_size": 160,
    }
    path.write_text(json.dumps(made))
    alone = mofi(store, tower, tmp_path / "alone", "ddp", steps=3)
    both = replace(alone, out=str(tmp_path / "both"), parallel=replace(alone.parallel, strategy=strategy))
    assert found(both, 2) == pytest.approx(found(alone, 1), rel=1e-3)


@pytest.mark.slow
def test_a_text_tower_that_rests_is_sharded_too(store: Store, tower: Path, tmp_path: Path) -> None:
    config = mofi(store, tower, tmp_path / "alone", "ddp", steps=2)
    alone = replace(config, task=replace(config.task, supervised_weight=1.0))  # type: ignore[type-var]
    both = replace(alone, out=str(tmp_path / "both"), parallel=replace(alone.parallel, strategy="fsdp"))
    assert found(both, 2) == pytest.approx(found(alone, 1), rel=1e-3)


def test_two_sharded_workers_say_of_pictures_what_one_says(store: Store, tower: Path, tmp_path: Path) -> None:
    """And go on as if they had not been asked."""
    made = small("git_miniworld", store, tmp_path / "alone", batch=8)
    track = replace(made.track, evaluate_every=2, samples=3)
    task = replace(made.task, encoder=replace(made.task.encoder, name=str(tower)))  # type: ignore[attr-defined, type-var]
    alone = replace(made, task=task, track=track, data=replace(made.data, held_out=0.3))
    alone = replace(alone, optim=replace(made.optim, warmup_steps=1))
    losses, said = _looker(0, 1, prepared(alone))
    both = replace(alone, out=str(tmp_path / "both"), parallel=ParallelConfig(threads=1, strategy="fsdp"))
    (made_by_both, shown), (_, none) = run_workers(_looker, 2, prepared(both))
    assert len(said) == 3
    assert shown == said
    assert none == []
    assert made_by_both == pytest.approx(losses, rel=1e-3)


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_two_workers_name_the_entity_that_one_names(weight: float, store: Store, tower: Path, tmp_path: Path) -> None:
    """Though each has half of the class vectors, and the other asks about other pictures."""
    made = mofi(store, tower, tmp_path / "alone", "ddp", steps=2)
    track = replace(made.track, evaluate_every=2, samples=3)
    task = replace(made.task, supervised_weight=weight)  # type: ignore[type-var]
    alone = replace(made, task=task, track=track, data=replace(made.data, held_out=0.4))
    _, said = _looker(0, 1, prepared(alone))
    (_, shown), (_, none) = run_workers(_looker, 2, prepared(replace(alone, out=str(tmp_path / "both"))))
    assert len(said) == 3 and all("(right: " in one for one in said)
    assert shown == said
    assert none == []


def test_a_run_goes_on_with_another_number_of_workers(store: Store, tower: Path, tmp_path: Path) -> None:
    whole = found(mofi(store, tower, tmp_path / "whole", "ddp"), 1)
    config = mofi(store, tower, tmp_path / "moved", "fsdp")

    def stop(step: int, point: Curve) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work(prepared(config), read_here, Told(stop))
    moved = found(config, 2)
    assert {step for step, _ in moved} == {3, 4}
    assert moved == pytest.approx({key: whole[key] for key in moved}, rel=1e-3)


def test_passes_add_up_to_a_step(store: Store, tower: Path, tmp_path: Path) -> None:
    """Of a softmax over all classes: a contrastive loss sees one pass's rows alone."""
    config = mofi(store, tower, tmp_path / "one", "ddp")
    config = replace(config, task=replace(config.task, supervised_weight=1.0))  # type: ignore[type-var]
    whole = found(config, 1)
    parts = replace(config, out=str(tmp_path / "two"), parallel=replace(config.parallel, accumulate=2))
    assert found(parts, 1) == pytest.approx(whole, rel=1e-4)


def test_bfloat16_stays_near(store: Store, tower: Path, tmp_path: Path) -> None:
    config = mofi(store, tower, tmp_path / "fp32", "ddp")
    half = replace(config, out=str(tmp_path / "bf16"), parallel=replace(config.parallel, precision="bf16"))
    whole, halved = found(config, 1), found(half, 1)
    assert halved == pytest.approx(whole, rel=0.05)
    assert halved != whole

"""The same recipe by torch-xla makes the CPU trainer's losses, and compiles nothing once all was done once."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from train.runs import prepared
from train.training_store import Store
from xla.small_runs import Outcome, config_of, cpu_points, losses, on_one_device, on_xla

from raylab.models.class_table import ClassTableConfig
from raylab.tasks.base import Group
from raylab.train.accelerators import open_accelerator
from raylab.train.loop import Curve
from raylab.train.optim import OptimConfig, make_optimizer, set_rates, share_of_rate

pytest.importorskip("torch_xla", reason="torch-xla has an environment of its own: make test-xla")

RECIPES = ["clip_miniworld", "mofi_miniworld", "git_miniworld", "git_oven_miniworld"]
FLOAT32 = 1e-4
"""Relative, over seven steps."""


def check(outcome: Outcome, expected: dict[int, Curve]) -> None:
    assert losses(outcome.points) == pytest.approx(losses(expected), rel=FLOAT32)
    held_out = {step: point["held_out/loss"] for step, point in expected.items() if "held_out/loss" in point}
    assert {step: outcome.points[step]["held_out/loss"] for step in held_out} == pytest.approx(held_out, rel=FLOAT32)
    assert len(outcome.said) == 4
    assert outcome.after_warm_up() == 0
    assert outcome.fell_back == []


@pytest.mark.timeout(600)
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_mesh_of_four(recipe: str, store: Store, tower: Path, tmp_path: Path) -> None:
    run = prepared(config_of(recipe, store, tower, tmp_path / "run"))
    check(on_xla(run), cpu_points(run))


@pytest.mark.timeout(600)
def test_classes_are_drawn_by_one_program(store: Store, tower: Path, tmp_path: Path) -> None:
    config = config_of("mofi_miniworld", store, tower, tmp_path / "run")
    few = ClassTableConfig(negatives=2)
    outcome = on_xla(prepared(replace(config, task=replace(config.task, table=few))))  # type: ignore[call-arg,type-var]
    assert outcome.after_warm_up() == 0
    assert outcome.fell_back == []
    assert all(math.isfinite(loss) for loss in losses(outcome.points).values())


def test_the_optimiser_is_one_program_for_ever() -> None:
    """torch-xla would make other programs where factors of Adam's become the same number.

    After some 1,800 steps one of them is 1 to the last bit; where rates are small, those of two groups are equal.
    """
    import torch_xla

    from raylab.train.accelerators.xla import compiled, numbers_to

    accelerator = open_accelerator("xla")
    weights = [torch.nn.Parameter(torch.ones(4, 4, device=accelerator.device)) for _ in range(2)]
    groups = [Group(f"block {i}", [weight], rate=0.9**i, decays=True) for i, weight in enumerate(weights)]
    optimizer = make_optimizer(groups, OptimConfig(rate=1e-4))
    assert isinstance(optimizer, torch.optim.AdamW)
    for weight in weights:
        optimizer.state[weight]["step"] += 1795
    numbers_to(accelerator.device, optimizer)
    programs = []
    for step in range(10):
        set_rates([optimizer], share_of_rate(step, 10, 3))
        for weight in weights:
            weight.grad = torch.full((4, 4), 0.1 * (step + 1)).to(accelerator.device)
        optimizer.step()
        torch_xla.sync()
        programs.append(compiled())
    assert programs[-1] == programs[2]


@pytest.mark.timeout(900)
def test_one_device(store: Store, tower: Path, tmp_path: Path) -> None:
    runs = {name: prepared(config_of(name, store, tower, tmp_path / name)) for name in RECIPES}
    passes = {"accumulate": 2, "checkpoint_activations": True}
    runs["two passes"] = prepared(config_of("clip_miniworld", store, tower, tmp_path / "passes", **passes))
    half = config_of("clip_miniworld", store, tower, tmp_path / "half", precision="bf16")
    found = on_one_device(runs | {"bf16": prepared(half)}, tmp_path)
    for name, run in runs.items():
        check(found[name], cpu_points(run))
    whole, rounded = losses(found["clip_miniworld"].points), losses(found["bf16"].points)
    assert rounded == pytest.approx(whole, rel=0.05)
    assert rounded != whole

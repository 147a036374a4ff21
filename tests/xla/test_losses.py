"""The same recipe by torch-xla makes the CPU trainer's losses, and compiles nothing once all was done once."""

from __future__ import annotations

from pathlib import Path

import pytest
from train.runs import prepared
from train.training_store import Store
from xla.small_runs import Outcome, config_of, cpu_points, losses, on_one_device, on_xla

from raylab.train.loop import Curve

pytest.importorskip("torch_xla", reason="torch-xla has an environment of its own: make test-xla")

RECIPES = ["clip_miniworld", "mofi_miniworld", "git_miniworld"]
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

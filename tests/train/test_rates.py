"""What the optimiser is told: rates by step and group, decay, and what a recipe makes of them in a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from train.runs import prepared, small, train
from train.training_store import Store

from raylab.tasks.base import Group
from raylab.train.accelerators import open_accelerator
from raylab.train.optim import OptimConfig, make_optimizer, set_rates, share_of_rate
from raylab.train.worker import arrays, build, read_here


def test_rates_rise_along_a_line_and_fall_along_a_cosine_to_zero() -> None:
    shares = [share_of_rate(step, 100, 20) for step in range(101)]
    assert shares[:20] == pytest.approx([(step + 1) / 20 for step in range(20)])
    assert shares[20] == 1
    assert shares[40] == pytest.approx(0.5 * (1 + 2**-0.5))  # a quarter of the way: cos(pi / 4)
    assert shares[60] == pytest.approx(0.5)
    assert shares[100] == pytest.approx(0)
    assert shares[20:] == sorted(shares[20:], reverse=True)
    assert share_of_rate(0, 100, 0) == 1


def test_each_group_has_its_rate_and_only_matrices_decay() -> None:
    slow, fast, plain = (torch.nn.Parameter(torch.ones(2, 2)) for _ in range(3))
    groups = [Group("slow", [slow], 0.1, decays=True), Group("fast", [fast], 1.0, decays=True)]
    groups += [Group("plain", [plain], 1.0, decays=False), Group("none", [], 1.0, decays=True)]
    found = make_optimizer(groups, OptimConfig(rate=0.2, weight_decay=0.5))
    set_rates([found], 0.5)
    told = {one["name"]: (one["lr"], one["weight_decay"]) for one in found.param_groups}
    assert told == {"slow": (pytest.approx(0.01), 0.5), "fast": (0.1, 0.5), "plain": (0.1, 0.0)}
    for one in (slow, fast, plain):
        one.grad = torch.zeros(2, 2)
    found.step()  # without a gradient, decay alone moves
    assert [float(one.detach()[0, 0]) for one in (slow, fast, plain)] == pytest.approx(
        [1 - 0.01 * 0.5, 1 - 0.1 * 0.5, 1.0]
    )


def test_the_encoder_learns_at_its_own_rate(store: Store, tmp_path: Path) -> None:
    config: Any = small("git_miniworld", store, tmp_path, init="runs/before")  # such a rate is for a tower that learnt
    config = replace(config, task=replace(config.task, encoder_rate=0.25))
    learner, state = build(prepared(config), open_accelerator("cpu"))
    groups, rate = state.optimizers[0].param_groups, config.optim.rate
    assert {group["name"]: group["highest"] / rate for group in groups} == {
        "encoder matrices": 0.25,
        "encoder others": 0.25,
        "decoder matrices": 1.0,
        "decoder others": 1.0,
    }
    slow = {id(one) for group in groups for one in group["params"] if group["highest"] < rate}
    assert slow == {id(one) for one in learner.module.git.encoder.parameters() if one.requires_grad}  # type: ignore[attr-defined]


def test_a_run_tells_the_rates_of_its_steps(store: Store, tmp_path: Path) -> None:
    config = small("mofi_miniworld", store, tmp_path, steps=4)
    config = replace(config, optim=replace(config.optim, rate=0.004, table_rate=0.02, warmup_steps=2))
    points = train(config)
    for step, share in ((1, 0.5), (2, 1.0), (3, 1.0), (4, 0.5)):
        assert points[step]["rate/matrices"] == pytest.approx(0.004 * share)
        assert points[step]["rate/table"] == pytest.approx(0.02 * share)


def test_activations_are_computed_again_where_that_is_asked_for(store: Store, tmp_path: Path) -> None:
    """The steps are the same; the blocks run twice."""
    losses, runs = [], []
    for again in (False, True):
        config = small("git_miniworld", store, tmp_path / str(again), steps=2)
        run = prepared(replace(config, parallel=replace(config.parallel, checkpoint_activations=again)))
        learner, state = build(run, open_accelerator("cpu"))
        calls: list[int] = []
        learner.shard_units()[-1].register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        torch.manual_seed(0)
        batch = next(arrays(run, read_here, 0, open_accelerator("cpu")))
        placed = open_accelerator("cpu").to_device(batch)
        found = learner.losses(state.module(*learner.inputs(placed)), placed)["loss"]
        found.backward()
        losses.append(float(found.detach()))
        runs.append(len(calls))
    assert losses[0] == losses[1]
    assert runs == [1, 2]

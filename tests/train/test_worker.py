"""Every task's run, alone and without Ray: it learns, it can be killed and goes on with the very same losses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from train.runs import MINIWORLD, small, train
from train.training_store import Store

from raylab.errors import RaylabError
from raylab.train.loop import Curve
from raylab.train.plan import CheckpointConfig

TIMING = ("step_s", "memory_gb")


class Killed(Exception):
    """Stands in for a kill: nothing is tidied up."""


def losses(points: dict[int, Curve]) -> dict[int, dict[str, float]]:
    return {step: {name: point[name] for name in point if name not in TIMING} for step, point in points.items()}


@pytest.mark.parametrize("recipe", MINIWORLD)
def test_a_killed_run_goes_on_with_the_same_losses(recipe: str, store: Store, tmp_path: Path) -> None:
    undisturbed = losses(train(small(recipe, store, tmp_path / "a")))

    def kill(step: int, point: Curve) -> None:
        if step == 5:
            raise Killed

    with pytest.raises(Killed):
        train(small(recipe, store, tmp_path / "b"), kill)
    resumed = losses(train(small(recipe, store, tmp_path / "b")))
    assert sorted(resumed) == [5, 6]
    assert resumed == {step: undisturbed[step] for step in resumed}
    assert sorted(undisturbed) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("recipe", MINIWORLD)
def test_it_learns(recipe: str, store: Store, tmp_path: Path) -> None:
    config = small(recipe, store, tmp_path, steps=30, checkpoint=CheckpointConfig(every=30))
    # a tuning recipe's rate is for a network that knows something already
    points = train(replace(config, optim=replace(config.optim, rate=2e-3)))
    first, last = (sum(points[step]["loss"] for step in steps) / 5 for steps in (range(1, 6), range(26, 31)))
    assert last < 0.9 * first
    assert all(point["replaced"] == 0 for point in points.values())
    assert points[1]["rate/decoder matrices" if "git" in recipe else "rate/matrices"] > 0


def test_a_loss_that_is_no_number_ends_the_run_and_is_not_saved(store: Store, tmp_path: Path) -> None:
    config = small("git_miniworld", store, tmp_path, steps=30)
    config = replace(config, optim=replace(config.optim, rate=1e30, clip_norm=0.0, warmup_steps=0))
    with pytest.raises(RaylabError, match=r"The loss is nan after step \d+\. .* lower --optim.rate"):
        train(config)
    kept = sorted((tmp_path / "checkpoints").glob("step-*"))
    assert len(kept) < 2

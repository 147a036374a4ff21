"""Every task's run, alone and without Ray: it learns, it can be killed and goes on with the very same losses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from train.runs import MINIWORLD, prepared, small, train
from train.training_store import Store

from raylab.errors import RaylabError
from raylab.train.accelerators import open_accelerator
from raylab.train.loop import Curve, Loop
from raylab.train.plan import CheckpointConfig
from raylab.train.worker import build

TIMING = ("step_s", "evaluate_s", "memory_gb")


class Killed(Exception):
    """Stands in for a kill: nothing is tidied up."""


def losses(points: dict[int, Curve]) -> dict[int, dict[str, float]]:
    return {step: {name: point[name] for name in point if name not in TIMING} for step, point in points.items()}


@pytest.mark.parametrize("recipe", MINIWORLD)
def test_a_killed_run_goes_on_with_the_same_losses(recipe: str, store: Store, tmp_path: Path) -> None:
    """At any step: each is killed once, one after the other, and a point that comes again is the same."""
    undisturbed = losses(train(small(recipe, store, tmp_path / "a")))
    assert sorted(undisturbed) == [1, 2, 3, 4, 5, 6]
    came_again = 0
    for last in (1, 4, 5, None):
        seen: dict[int, Curve] = {}

        def kill(step: int, point: Curve, last: int | None = last, seen: dict[int, Curve] = seen) -> None:
            seen[step] = point
            if step == last:
                raise Killed

        if last is None:
            train(small(recipe, store, tmp_path / "b"), kill)
        else:
            with pytest.raises(Killed):
                train(small(recipe, store, tmp_path / "b"), kill)
        assert losses(seen) == {step: undisturbed[step] for step in seen}
        came_again += len(seen)
    assert came_again > len(undisturbed)


@pytest.mark.parametrize("recipe", [name for name in MINIWORLD if name != "linear_probe_miniworld"])
def test_it_learns(recipe: str, store: Store, tmp_path: Path) -> None:
    """But for a linear map on random vectors: see tests/tasks/test_finetune.py."""
    config = small(recipe, store, tmp_path, steps=30, checkpoint=CheckpointConfig(every=30))
    # a tuning recipe's rate is for a network that knows something already
    points = train(replace(config, optim=replace(config.optim, rate=2e-3)))
    first, last = (sum(points[step]["loss"] for step in steps) / 5 for steps in (range(1, 6), range(26, 31)))
    assert last < 0.9 * first
    assert all(point["replaced"] == 0 for point in points.values())
    rates = [rate for name, rate in points[1].items() if name.startswith("rate/") and name.endswith("matrices")]
    assert rates and min(rates) > 0


def test_a_loss_that_is_no_number_ends_the_run_and_is_not_saved(store: Store, tmp_path: Path) -> None:
    config = small("git_miniworld", store, tmp_path, steps=30)
    config = replace(config, optim=replace(config.optim, rate=1e30, clip_norm=0.0, warmup_steps=0))
    with pytest.raises(RaylabError, match=r"The (loss|gradients' norm) is (nan|inf) after .* lower --optim.rate"):
        train(config)
    kept = sorted((tmp_path / "checkpoints").glob("step-*"))
    assert len(kept) < 2


def test_memory_that_is_too_small_is_an_error_that_says_what_to_set(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_much(*arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...\nmore")

    monkeypatch.setattr(Loop, "run", too_much)
    with pytest.raises(RaylabError, match=r"16 rows a step .* --parallel.accumulate.* allocate 2.00 GiB.*\)$"):
        train(small("mofi_miniworld", store, tmp_path))


@pytest.mark.parametrize(("rate", "limit"), [(9.0, 100.0), (-9.0, 1.0)])
def test_the_temperature_stays_within_its_limit(rate: float, limit: float, store: Store, tmp_path: Path) -> None:
    """CLIP's, after each step that went beyond."""
    run = prepared(small("clip_miniworld", store, tmp_path))
    learner, state = build(run, open_accelerator("cpu"))
    scale = learner.module.clip.logit_scale
    scale.grad = torch.tensor(-rate)
    state.optimizers[0].param_groups[1]["lr"] = 9.0
    state.optimizers[0].step()
    assert not 1.0 <= scale.exp() <= 100.0
    learner.after_step()
    assert float(scale.detach().exp()) == pytest.approx(limit)

"""A sweep that cannot run is refused before anything is opened; its trials follow from its settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raylab.errors import RaylabError
from raylab.evaluate.oven import OvenConfig
from raylab.evaluate.plan import EvaluateConfig
from raylab.recipes.train import TRAIN
from raylab.sources.base import SourceConfig
from raylab.tune.plan import ScheduleConfig, SearchConfig, Sweep, SweepConfig, check
from raylab.tune.spaces import Fit

OVEN = EvaluateConfig(suite="oven", plots=False, oven=OvenConfig("miniworld://?rows=10"))


def sweep(recipe: str = "git_miniworld", space: dict[str, str] | None = None, **config: Any) -> Sweep:
    train = replace(TRAIN[recipe](), source=SourceConfig(uri="pairs"), labels="labels", kb="kb", out="out")
    return Sweep.make(train, SweepConfig(**config), space or {})


@pytest.mark.parametrize("recipe", TRAIN)
def test_the_usual_sweep_of_each_recipe_is_sound(recipe: str) -> None:
    check(sweep(recipe))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"search": SearchConfig("optna")}, "Did you mean 'optuna'"),
        ({"schedule": ScheduleConfig("hyperband")}, "not known"),
        ({"mode": "maximum"}, "Did you mean 'max'"),
        ({"fit": Fit("square")}, "not known"),
        ({"samples": 0}, "--samples 0"),
        ({"hours": -1.0}, "--hours -1: it has to be 0 or more"),
        ({"keep_checkpoints": "bets"}, "Did you mean 'best'"),
        ({"schedule": ScheduleConfig(keep=1)}, "--schedule.keep 1"),
        ({"schedule": ScheduleConfig(looks=301)}, "more looks than steps"),
        ({"space": {"steps": "choice(1, 2)"}}, "have the same"),
        ({"space": {"batch": "grid_search(16, 32)"}, "search": SearchConfig("optuna")}, "is a grid"),
        ({"objective": ("a", "b")}, "only --search.algorithm optuna"),
        ({"objective": ("validation/oven/every-question/final/HM",)}, "--validate.suite has no 'oven'"),
        ({"validate": EvaluateConfig(suite="ovn", plots=False)}, "Did you mean 'oven'"),
        ({"validate": replace(OVEN, workers=2)}, "in its own process"),
        ({"validate": EvaluateConfig(suite="retrieval", plots=False)}, "--objective is missing"),
        ({"schedule": ScheduleConfig("pbt"), "space": {"": "none"}}, "wants a space"),
        ({"schedule": ScheduleConfig("pbt"), "samples": 1}, "--samples 2"),
        ({"schedule": ScheduleConfig("pbt"), "search": SearchConfig("optuna")}, "no pbt"),
        ({"search": SearchConfig("optuna"), "space": {"": "none"}}, "wants a space"),
        ({"space": {"parallel.workers": "choice(1, 2)"}}, "have the same"),
        ({"space": {"checkpoint.every": "choice(1, 2)"}}, "have the same"),
        ({"validate": replace(OVEN, device="cuda")}, "give both, or neither"),
        ({"validate_gpus": 0.5}, "give both, or neither"),
        ({"validate": EvaluateConfig(suite="oven", plots=False)}, "--validate.oven.questions is missing"),
    ],
)
def test_what_cannot_run_is_refused_with_the_way_out(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(RaylabError, match=complaint):
        check(sweep(**settings))


def test_an_objective_of_held_out_rows_wants_such_rows() -> None:
    made = sweep()
    train = replace(made.train, data=replace(made.train.data, held_out=0.0))
    with pytest.raises(RaylabError, match=r"--data.held-out is 0"):
        check(replace(made, train=train))


def test_the_objective_is_the_validations_harmonic_mean_where_there_is_one() -> None:
    assert [one.name for one in sweep(validate=OVEN).objectives] == ["validation/oven/every-question/final/HM"]
    assert [one.name for one in sweep().objectives] == ["held_out/entity_exact"]


def test_grids_are_gone_through_in_full() -> None:
    grids = {"": "none", "batch": "grid_search(16, 32)", "seed": "grid_search(1, 2, 3)"}
    assert sweep(space=grids, samples=8).trials == 6
    assert sweep(space=grids | {"task.smoothing": "uniform(0, 0.1)"}, samples=8).trials == 48
    assert sweep(samples=8).trials == 8


def test_the_first_trial_has_the_recipes_own_values_where_the_space_has_them() -> None:
    assert sweep().first == {"optim.rate": 2e-3, "task.smoothing": 0.2, "batch": 64}
    assert sweep(defaults_first=False).first is None
    assert sweep(space={"": "none"}).first is None  # each trial is the recipe as it is
    assert sweep(space={"batch": "grid_search(32, 64)"}).first is None  # a grid is gone through as it is
    narrow = sweep(space={"optim.rate": "uniform(0.1, 0.2)"})
    assert (narrow.first, narrow.outside) == (None, ["optim.rate"])


def test_paths_are_made_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).touch()
    oven = OvenConfig("a.jsonl,b.jsonl,s3://bucket/c.jsonl")
    made = sweep(validate=replace(OVEN, oven=oven, data="miniworld://?rows=3")).absolute()
    assert made.config.validate.oven.questions == f"{tmp_path}/a.jsonl,{tmp_path}/b.jsonl,s3://bucket/c.jsonl"
    assert made.config.validate.data == "miniworld://?rows=3"
    assert made.config.validate.zero_shot == OVEN.zero_shot
    assert made.train.labels == f"{tmp_path}/labels"


def test_a_trial_is_looked_at_where_it_is_saved_and_belongs_to_the_sweeps_group(tmp_path: Path) -> None:
    made = sweep(schedule=ScheduleConfig(looks=4))
    made = replace(made, train=replace(made.train, out="runs/sweep-7/"))
    trial = made.trial({"batch": 128, "task.smoothing": 0}, str(tmp_path))
    assert trial.track.evaluate_every == trial.checkpoint.every == 75
    assert (trial.track.group, trial.out) == ("sweep-7", str(tmp_path))
    assert (trial.batch, trial.parallel.accumulate, trial.task.smoothing) == (128, 2, 0.0)  # type: ignore[attr-defined]

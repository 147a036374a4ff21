"""Sweeps under Ray Tune: trials take turns, the worse ones end early, all are accounted for, the best is a recipe."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from train.training_store import Store
from tune.small import sweep
from wandb_files import read_wandb, wandb_folders

from raylab.config import parse
from raylab.errors import RaylabError
from raylab.evaluate.models import DecodingConfig
from raylab.evaluate.oven import OvenConfig
from raylab.evaluate.plan import EvaluateConfig
from raylab.recipes.train import TRAIN
from raylab.storage import Folder
from raylab.tune.plan import ScheduleConfig, SearchConfig, Sweep, SweepConfig
from raylab.tune.results import TrialResult, note, read_trials
from raylab.tune.run import concurrent, numbered, param_space, run, searcher

RATES = {"optim.rate": "loguniform(1e-4, 1e-2)"}


def tracked(made: Sweep) -> Sweep:
    """With W&B, offline."""
    return replace(made, train=replace(made.train, track=replace(made.train.track, project="raylab", samples=2)))


def check_wandb(trial: TrialResult, made: Sweep) -> None:
    """Its config, curves and summary are whole in what wandb kept offline."""
    (folder,) = wandb_folders(Path(trial.out))
    found = read_wandb(folder)
    assert (found.name, found.group, found.job_type, found.exit_code) == (trial.id, made.name, "train", 0)
    assert found.config["optim"]["rate"] == trial.values["optim.rate"]
    assert [int(point["step"]) for point in found.points()] == list(range(1, trial.step + 1))
    first = made.objectives[0]
    assert found.summary[first.name] == pytest.approx(trial.value(first))
    assert len(found.captions("held_out")) == 2


@pytest.mark.timeout(600)
def test_a_sweep_ends_with_all_trials_accounted_for_and_the_best_as_a_recipe(
    ray_cluster: None, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    caplog.set_level("INFO", logger="raylab")
    schedule = ScheduleConfig(looks=3, keep=2)
    space = RATES | {"batch": "choice(16, 32)"}  # one at a time: each is some ten processes that have to start
    made = tracked(sweep(store, tmp_path, space=space, samples=2, schedule=schedule, concurrent=1))
    summary = run(made)
    trials = read_trials(Folder(str(tmp_path)))
    assert summary["trials"] == len(trials) == 2
    assert summary["finished"] + summary.get("stopped", 0) == 2
    assert {trial.status for trial in trials} <= {"finished", "stopped"}
    for trial in trials:
        folder = Path(trial.out)
        steps = [json.loads(line)["step"] for line in (folder / "curves.jsonl").read_text().splitlines()]
        assert steps == list(range(1, trial.step + 1))  # none went on behind its end
        assert (trial.status == "finished") == (trial.step == 6) == (folder / "model").exists()
        check_wandb(trial, made)
    best = parse(TRAIN, "mofi_b16", ["--recipe", summary["best_recipe"], "--out", "elsewhere"], "")
    assert best.optim.rate == summary["values"]["optim.rate"]
    assert (best.batch, best.out, best.steps) == (summary["values"]["batch"], "elsewhere", 6)
    assert best.task == made.train.task
    assert "sweep.html" in summary["report"]
    before = (tmp_path / "summary.json").stat().st_mtime_ns
    assert run(made) == summary  # the same line again: nothing is left to do
    assert (tmp_path / "summary.json").stat().st_mtime_ns == before
    with pytest.raises(RaylabError, match=r"sweep.samples: 2 -> 5"):
        run(replace(made, config=replace(made.config, samples=5)))


def test_trials_take_turns_on_a_small_cluster_and_one_that_never_fits_is_refused(
    ray_cluster: None, store: Store, tmp_path: Path
) -> None:
    made = sweep(store, tmp_path)
    sizes = {cpus: replace(made.train.parallel, cpus=cpus) for cpus in (1.0, 2.0, 5.0, 6.0)}
    room = {cpus: replace(made, train=replace(made.train, parallel=parallel)) for cpus, parallel in sizes.items()}
    assert [concurrent(room[cpus]) for cpus in (1.0, 2.0, 5.0)] == [3, 2, 1]
    with pytest.raises(RaylabError, match=r"needs 6.51 CPUs and this cluster has 6"):
        concurrent(room[6.0])
    with pytest.raises(RaylabError, match="2 workers need a GPU each"):
        train = replace(made.train, accelerator="cuda", parallel=replace(made.train.parallel, workers=2))
        run(replace(made, train=train))


def test_a_sampler_that_goes_on_draws_again_what_was_drawn(tmp_path: Path) -> None:
    space = {"": "none", "task.smoothing": "uniform(0, 0.3)", "batch": "powers_of_two(16, 128)"}
    made = Sweep.make(TRAIN["git_miniworld"](), SweepConfig(search=SearchConfig("optuna")), space)
    out, drawn = Folder(str(tmp_path)), [{"task.smoothing": 0.25, "batch": 32}, {"task.smoothing": 0.1, "batch": 128}]
    for number, values in enumerate(drawn):
        note(Folder(f"{out.uri}/trials/{number:05d}"), values)
    first = made.objectives[0]
    sampler = searcher(made, out, 3)
    assert sampler.set_search_properties(first.name, first.mode, param_space(made))
    assert [sampler.suggest(name) for name in ("a", "b")] == drawn
    more = sampler.suggest("c")
    assert 0 <= more["task.smoothing"] <= 0.3
    assert more["batch"] in (16, 32, 64, 128)


def test_values_are_written_down_when_they_are_drawn(tmp_path: Path) -> None:
    """So that a driver that is killed leaves no trial that was drawn later without those before it."""
    name = numbered(Folder(str(tmp_path)))
    drawn = [SimpleNamespace(trial_id=trial_id, config={"batch": size}) for trial_id, size in (("x", 16), ("y", 32))]
    assert [name(trial) for trial in (*drawn, *drawn)] == ["00000", "00001", "00000", "00001"]
    assert [trial.values for trial in read_trials(Folder(str(tmp_path)))] == [{"batch": 16}, {"batch": 32}]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_population_goes_on_from_its_better_half(ray_cluster: None, store: Store, tmp_path: Path) -> None:
    schedule = ScheduleConfig("pbt", looks=6)
    made = sweep(store, tmp_path, space=RATES | {"batch": "choice(8, 16, 32)"}, samples=4, schedule=schedule)
    with pytest.raises(RaylabError, match="there is room for 3"):
        run(made)
    made = replace(made, train=replace(made.train, parallel=replace(made.train.parallel, cpus=0.5)))
    summary = run(replace(made, train=replace(made.train, out=str(tmp_path / "sweep"))))
    assert summary["finished"] >= 4
    trials = read_trials(Folder(str(tmp_path / "sweep")))
    assert {trial.values["batch"] for trial in trials} <= {8, 16, 32}
    assert all(1e-4 <= trial.values["optim.rate"] <= 1e-2 for trial in trials)
    born = [trial for trial in trials if "." in trial.id]
    assert born  # somebody was replaced
    for trial in born:
        steps = [json.loads(line)["step"] for line in (Path(trial.out) / "curves.jsonl").read_text().splitlines()]
        assert steps[0] > 1  # not from the beginning


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_optuna_searches_by_two_objectives(ray_cluster: None, store: Store, tmp_path: Path) -> None:
    names = tuple(f"validation/oven/every-question/{split}/HM" for split in ("entity", "query"))
    validate = EvaluateConfig(
        suite="oven",
        plots=False,
        decoding=DecodingConfig(beams=2),
        oven=OvenConfig(questions="miniworld://?rows=300&seed=5", rows=24),
    )
    made = sweep(
        store,
        tmp_path,
        "git_miniworld",
        space={"task.smoothing": "uniform(0, 0.3)"},
        samples=3,
        objective=names,
        search=SearchConfig("optuna"),
        schedule=ScheduleConfig("none", looks=2),
        validate=validate,
    )
    summary = run(made)
    assert summary["finished"] == 3
    assert set(summary["objective"]) == set(names)
    for trial in read_trials(Folder(str(tmp_path))):
        assert all(name in trial.points[-1] for name in names)

"""Sweeps under Ray Tune: trials take turns, the worse ones end early, all are accounted for, the best is a recipe."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from train.training_store import Store
from tune.small import sweep
from wandb_files import read_wandb, wandb_folders

from raylab.config import parse
from raylab.errors import Interrupted, RaylabError
from raylab.evaluate.models import DecodingConfig
from raylab.evaluate.oven import OvenConfig
from raylab.evaluate.plan import EvaluateConfig
from raylab.recipes.train import TRAIN
from raylab.storage import Folder
from raylab.tasks.base import TaskContext
from raylab.tasks.mofi import MofiLearner, MofiTask
from raylab.tune.plan import ScheduleConfig, SearchConfig, Sweep, SweepConfig
from raylab.tune.results import TrialResult, note, read_trials
from raylab.tune.run import TrialActor, concurrent, numbered, param_space, run, scheduler, searcher

RATES = {"optim.rate": "loguniform(1e-4, 1e-2)"}


def tracked(made: Sweep) -> Sweep:
    """With W&B, offline."""
    return replace(made, train=replace(made.train, track=replace(made.train.track, project="raylab", samples=2)))


def check_wandb_of_sweep(out: Path, made: Sweep, summary: dict[str, Any]) -> None:
    """Its table, its best recipe and its plots are in a run of its own."""
    (folder,) = wandb_folders(out)
    found = read_wandb(folder)
    assert (found.group, found.job_type, found.exit_code) == (made.name, "tune", 0)
    assert next(row["trial"] for row in found.table("trials")) == found.summary["best"] == summary["best"]
    assert {"best.json", "sweep.html", "trials.json"} <= set(found.files)


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
    assert trials[0].values == {"optim.rate": made.train.optim.rate, "batch": 16}  # the recipe's own
    assert trials[0].status == "finished"
    assert "2 of 2 trials at their end" in caplog.text
    assert summary["finished"] + summary.get("stopped", 0) == 2
    assert {trial.status for trial in trials} <= {"finished", "stopped"}
    for trial in trials:
        folder = Path(trial.out)
        steps = [json.loads(line)["step"] for line in (folder / "curves.jsonl").read_text().splitlines()]
        assert steps == list(range(1, trial.step + 1))  # none went on behind its end
        assert (trial.status == "finished") == (trial.step == 6) == (folder / "model").exists()
        check_wandb(trial, made)
        assert (folder / "checkpoints").exists() == (trial.id == summary["best"])
    check_wandb_of_sweep(tmp_path, made, summary)
    best = parse(TRAIN, "mofi_b16", ["--recipe", summary["best_recipe"], "--out", "elsewhere"], "")
    assert best.optim.rate == summary["values"]["optim.rate"]
    assert (best.batch, best.out, best.steps) == (summary["values"]["batch"], "elsewhere", 6)
    assert best.task == made.train.task
    assert "sweep.html" in summary["report"]
    before = (tmp_path / "summary.json").stat().st_mtime_ns
    assert run(made) == summary  # the same line again: nothing is left to do
    assert (tmp_path / "summary.json").stat().st_mtime_ns == before
    with pytest.raises(RaylabError, match=r"has 2 trials, and --samples 1 makes 1"):
        run(replace(made, config=replace(made.config, samples=1)))
    with pytest.raises(RaylabError, match=r"sweep.schedule.keep: 2 -> 3"):
        run(replace(made, config=replace(made.config, schedule=ScheduleConfig(looks=3))))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_sweep_that_was_cut_goes_on_and_more_samples_join_it(
    ray_cluster: None, store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = sweep(store, tmp_path, space=RATES, samples=2, concurrent=1, schedule=ScheduleConfig(looks=3))
    with pytest.raises(Interrupted, match=r"Cut after .* None finished before"):
        run(replace(made, config=replace(made.config, hours=1e-3)))
    whole = run(made)
    assert (whole["asked"], whole["trials"]) == (2, 2)
    before = read_trials(Folder(str(tmp_path)))
    curves = [Path(trial.out, "curves.jsonl").stat().st_mtime_ns for trial in before]
    summary = run(replace(made, config=replace(made.config, samples=3)))
    trials = read_trials(Folder(str(tmp_path)))
    assert (summary["asked"], summary["trials"]) == (3, 3)
    assert trials[:2] == before
    assert curves == [Path(trial.out, "curves.jsonl").stat().st_mtime_ns for trial in trials[:2]]
    assert [trial.values for trial in trials] == drawn(made, 3)


def drawn(made: Sweep, samples: int) -> list[dict[str, object]]:
    """Return what a sweep of so many samples draws."""
    made = replace(made, config=replace(made.config, samples=samples))
    random = searcher(made, Folder(made.train.out), 0)
    random.add_configurations(
        {"sweep": {"run": TrialActor, "config": param_space(made), "num_samples": made.draws}}  # type: ignore[dict-item]
    )
    return [trial.config for trial in iter(random.next_trial, None)]


def test_the_same_seed_draws_the_same_values_and_more_samples_come_behind_them() -> None:
    space = {"": "none", "task.smoothing": "uniform(0, 0.3)", "batch": "powers_of_two(16, 128)"}

    def of(samples: int, **config: Any) -> list[dict[str, object]]:
        return drawn(Sweep.make(TRAIN["git_miniworld"](), SweepConfig(**config), space), samples)

    three = of(3)
    assert three[0] == {"task.smoothing": 0.2, "batch": 64}  # the recipe's own
    assert len({str(values) for values in three}) == 3
    assert of(6)[:3] == three
    assert of(2, defaults_first=False) == three[1:]
    assert of(3, search=SearchConfig(seed=1))[1:] != three[1:]


def test_a_trial_that_failed_is_no_rival_and_the_recipes_own_goes_to_its_end(store: Store, tmp_path: Path) -> None:
    made = sweep(store, tmp_path, space=RATES, schedule=ScheduleConfig(looks=3, keep=2))
    asha = scheduler(made)
    trials = [Named(f"{number:05d}") for number in range(4)]
    for trial in trials:
        asha.on_trial_add(None, trial)  # type: ignore[arg-type]

    def look(number: int, step: int, value: float) -> str:
        return asha.on_trial_result(None, trials[number], {"step": step, made.objectives[0].name: value})  # type: ignore[arg-type]

    asha.on_trial_complete(None, trials[3], {"step": 0, "done": True})  # type: ignore[arg-type]
    assert look(1, 2, 0.8) == "CONTINUE"
    assert look(2, 2, 0.1) == "STOP"
    assert look(0, 2, 0.1) == "CONTINUE"  # worse than the others, but the recipe's own


class Named(str):
    """A trial as ASHA sees it."""

    @property
    def trial_id(self) -> str:
        return str(self)


BLIND = 7


@dataclass(frozen=True)
class Blind(MofiTask):
    """MOFI whose loss on held-out rows is no number where the run's seed is `BLIND`."""

    def learner(self, context: TaskContext) -> MofiLearner:
        learner = super().learner(context)
        losses = learner.losses

        def blind(outputs: Mapping[str, Any], batch: Mapping[str, Any]) -> dict[str, Any]:
            found = losses(outputs, batch)
            return found if torch.is_grad_enabled() else found | {"loss": found["loss"] * math.nan}

        learner.losses = blind if context.seed == BLIND else losses  # type: ignore[method-assign]
        return learner


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_sweep_goes_on_where_a_trials_objective_is_no_number(ray_cluster: None, store: Store, tmp_path: Path) -> None:
    seeds = {"seed": f"grid_search({BLIND}, 1, 2)"}
    made = sweep(store, tmp_path, space=seeds, objective=("held_out/loss",), mode="min", concurrent=1)
    task = Blind(**vars(made.train.task))
    summary = run(replace(made, train=replace(made.train, task=task)))
    blind, *others = read_trials(Folder(str(tmp_path)))
    assert (blind.status, blind.step) == ("failed", 2)
    assert "held_out/loss is nan after step 2" in blind.error
    assert {trial.status for trial in others} <= {"finished", "stopped"}
    assert summary["values"]["seed"] != BLIND
    assert summary["failed"] == 1


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
    fresh = searcher(made, Folder(str(tmp_path / "fresh")), 3)
    assert fresh.set_search_properties(first.name, first.mode, param_space(made))
    assert more not in [fresh.suggest(name) for name in ("a", "b", "c")]  # what is drawn first does not come again
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

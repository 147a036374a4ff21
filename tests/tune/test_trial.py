"""A trial waits at each look, ends where it is told to, goes on where it was killed, and fails with a reason."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from train.training_store import Store
from tune.small import sweep, train_here

from raylab.errors import Interrupted, OutOfMemory, RaylabError
from raylab.evaluate.models import DecodingConfig
from raylab.evaluate.oven import OvenConfig
from raylab.evaluate.plan import EvaluateConfig
from raylab.storage import Folder
from raylab.tasks.base import TaskContext
from raylab.tasks.mofi import MofiLearner, MofiTask
from raylab.train.board import Pace
from raylab.train.plan import TrainConfig
from raylab.tune.plan import Sweep
from raylab.tune.results import Objective, best_trial, read_trials, remove_checkpoints
from raylab.tune.trial import Trial, branch

TOP1 = Objective("held_out/text_top1")


def finished(trial: Trial) -> list[int]:
    """Go on to the end; return the steps of the looks."""
    steps, last = [], False
    while not last:
        point, last = trial.look()
        steps.append(int(point["step"]))
    return steps


def losses(out: Folder) -> dict[int, float]:
    """Return the loss of each step, as the run's curves have it."""
    return {point["step"]: point["loss"] for point in map(json.loads, out.read_bytes("curves.jsonl").splitlines())}


def test_a_trial_waits_at_each_look_and_leaves_a_model(store: Store, tmp_path: Path) -> None:
    trial = Trial(sweep(store, tmp_path), "a", {"optim.rate": 1e-3}, train_here)
    point, last = trial.look()
    assert (point["step"], last) == (2, False)
    assert 0 <= point[TOP1.name] <= 1
    assert sorted(losses(trial.out)) == [1, 2]  # no step was made while nobody said go on
    assert finished(trial) == [4, 6]
    assert trial.out.exists("model/open_clip_config.json")
    (told,) = read_trials(Folder(str(tmp_path)))
    assert (told.status, told.step, told.values) == ("finished", 6, {"optim.rate": 1e-3})
    assert best_trial([told], TOP1) is told


def test_a_trial_that_is_stopped_keeps_its_checkpoint_and_goes_on_to_the_same_losses(
    store: Store, tmp_path: Path
) -> None:
    whole = Trial(sweep(store, tmp_path / "whole"), "a", {}, train_here)
    finished(whole)
    part = Trial(sweep(store, tmp_path / "part"), "a", {}, train_here)
    part.look()
    part.stop()
    assert sorted(losses(part.out)) == [1, 2]
    assert read_trials(Folder(str(tmp_path / "part")))[0].status == "unfinished"
    again = Trial(sweep(store, tmp_path / "part"), "a", {}, train_here)
    assert finished(again) == [2, 4, 6]  # the look that was made is told again, without a step
    assert losses(again.out) == losses(whole.out)
    third = Trial(sweep(store, tmp_path / "part"), "a", {}, train_here)
    third.go_on_after(4)
    assert finished(third) == [6]


def test_a_trial_goes_on_from_another_ones_weights_at_its_own_rate(store: Store, tmp_path: Path) -> None:
    made = sweep(store, tmp_path)
    donor = Trial(made, "donor", {"optim.rate": 1e-3}, train_here)
    donor.look()
    donor.look()
    donor.stop()
    branch(Folder(str(tmp_path)), "donor", 4, "other.1", {"optim.rate": 5e-4})
    other = Trial(made, "other.1", {}, train_here)
    assert finished(other) == [6]
    (point,) = [json.loads(line) for line in other.out.read_bytes("curves.jsonl").splitlines() if b'"step": 5,' in line]
    assert 0 < point["rate/matrices"] < 5e-4


def test_a_loss_that_is_no_number_fails_the_trial_with_the_reason_and_for_good(store: Store, tmp_path: Path) -> None:
    made = sweep(store, tmp_path)
    with pytest.raises(RaylabError, match=r"is nan after step|is inf after step"):
        finished(Trial(made, "a", {"optim.rate": 1e20, "optim.clip_norm": 0.0}, train_here))
    (told,) = read_trials(Folder(str(tmp_path)))
    assert told.status == "failed"
    assert "after step" in told.error
    assert best_trial([told], TOP1) is None
    with pytest.raises(RaylabError, match="after step"):  # begun again, as after a death: not trained again
        Trial(made, "a", {}, train_here)


def test_an_objective_that_is_no_number_fails_the_trial_with_the_reason(store: Store, tmp_path: Path) -> None:
    def blind(config: TrainConfig, pace: Pace) -> dict[str, Any]:
        pace.at(2, {TOP1.name: 0.9})
        pace.at(4, {TOP1.name: float("nan")})
        return {}

    trial = Trial(sweep(store, tmp_path), "a", {}, blind)
    trial.look()
    with pytest.raises(RaylabError, match=r"held_out/text_top1 is nan after step 4"):
        trial.look()
    trial.stop()
    (told,) = read_trials(Folder(str(tmp_path)))
    assert (told.status, told.step) == ("failed", 4)
    assert best_trial([told], TOP1) is None


def test_a_trial_at_its_end_tells_its_looks_again_without_its_checkpoints(store: Store, tmp_path: Path) -> None:
    made = sweep(store, tmp_path)
    one, other = (Trial(made, name, {}, train_here) for name in ("a", "b"))
    finished(one)
    other.look()
    other.stop()
    other.out.write_json("end.json", {"status": "stopped"})
    remove_checkpoints(read_trials(Folder(str(tmp_path))), [Objective("nothing")])
    assert not one.out.exists("checkpoints") and not other.out.exists("checkpoints")
    assert finished(Trial(made, "a", {}, train_here)) == [2, 4, 6]
    assert finished(Trial(made, "b", {}, train_here)) == [2]
    assert not one.out.exists("checkpoints") and not other.out.exists("checkpoints")  # nobody trained


@dataclass(frozen=True)
class Hungry(MofiTask):
    """MOFI on a device that holds `most` rows."""

    most: int = 4

    def learner(self, context: TaskContext) -> MofiLearner:
        learner = super().learner(context)
        losses, most = learner.losses, self.most

        def checked(outputs: Mapping[str, Any], batch: Mapping[str, Any]) -> dict[str, Any]:
            if torch.is_grad_enabled() and len(batch["image_BHWC"]) > most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return losses(outputs, batch)

        learner.losses = checked  # type: ignore[method-assign]
        return learner


def hungry(made: Sweep, most: int) -> Sweep:
    task = Hungry(**{**vars(made.train.task), "most": most})
    return replace(made, train=replace(made.train, task=task))


def test_a_step_that_lacks_memory_gets_more_passes(store: Store, tmp_path: Path) -> None:
    trial = Trial(hungry(sweep(store, tmp_path), most=4), "a", {}, train_here)
    assert finished(trial) == [2, 4, 6]
    assert trial.config.parallel.accumulate == 4


def test_a_step_that_never_fits_fails_with_the_way_out(store: Store, tmp_path: Path) -> None:
    made = hungry(sweep(store, tmp_path, retries=1), most=2)
    with pytest.raises(OutOfMemory, match=r"raise --parallel.accumulate"):
        finished(Trial(made, "a", {}, train_here))


def test_benchmarks_join_a_look(store: Store, tmp_path: Path) -> None:
    validate = EvaluateConfig(
        suite="oven",
        plots=False,
        decoding=DecodingConfig(beams=2),
        oven=OvenConfig(questions="miniworld://?rows=300&seed=5", rows=24),
    )
    made = sweep(store, tmp_path, "git_miniworld", validate=validate)
    assert [one.name for one in made.objectives] == ["validation/oven/every-question/final/HM"]
    trial = Trial(made, "a", {}, train_here)
    point, _ = trial.look()
    trial.stop()
    for split in ("entity", "query"):
        for portion in ("seen", "unseen"):
            assert 0 <= point[f"validation/oven/every-question/{split}/{portion}/accuracy"] <= 1
    assert point["validation/oven/every-question/final/HM"] == pytest.approx(
        read_trials(Folder(str(tmp_path)))[0].value(made.objectives[0])
    )


def test_values_that_the_recipe_refuses_are_accounted_for(store: Store, tmp_path: Path) -> None:
    with pytest.raises(RaylabError, match="below 1"):
        Trial(sweep(store, tmp_path, "git_miniworld"), "a", {"task.smoothing": 2.0}, train_here)
    (told,) = read_trials(Folder(str(tmp_path)))
    assert (told.status, told.values) == ("failed", {"task.smoothing": 2.0})
    assert "below 1" in told.error


def test_a_trial_that_others_ended_stays_ended(store: Store, tmp_path: Path) -> None:
    trial = Trial(sweep(store, tmp_path), "a", {}, train_here)
    trial.look()
    trial.look()
    trial.stop()
    trial.out.write_json("end.json", {"status": "stopped"})
    again = Trial(sweep(store, tmp_path), "a", {}, train_here)
    assert finished(again) == [2, 4]
    assert sorted(losses(again.out)) == [1, 2, 3, 4]


def test_what_machines_ended_goes_on(store: Store, tmp_path: Path) -> None:
    def dies(config: TrainConfig, pace: Pace) -> dict[str, Any]:
        raise Interrupted("Workers died.")

    with pytest.raises(Interrupted):
        Trial(sweep(store, tmp_path), "a", {}, dies).look()
    assert read_trials(Folder(str(tmp_path)))[0].status == "unfinished"
    assert finished(Trial(sweep(store, tmp_path), "a", {}, train_here)) == [2, 4, 6]


def test_an_objective_that_nothing_gives_fails_the_trial_with_what_there_is(store: Store, tmp_path: Path) -> None:
    trial = Trial(sweep(store, tmp_path, objective=("held_out/nothing",)), "a", {}, train_here)
    with pytest.raises(RaylabError, match=r"not among what a trial tells: .*held_out/text_top1"):
        trial.look()
    trial.stop()


def test_a_broken_knowledge_base_fails_the_trial_and_leaves_nobody_waiting(store: Store, tmp_path: Path) -> None:
    validate = EvaluateConfig(
        suite="oven", plots=False, kb=str(tmp_path), oven=OvenConfig("miniworld://?rows=300&seed=5")
    )
    trial = Trial(sweep(store, tmp_path / "sweep", "git_miniworld", validate=validate), "a", {}, train_here)
    with pytest.raises(RaylabError, match="knowledge base"):
        trial.look()
    trial.stop()
    assert read_trials(Folder(str(tmp_path / "sweep")))[0].status == "failed"

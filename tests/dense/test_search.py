"""A search under Ray: maps, cells and full training, all accounted for; it goes on where it was cut off."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dense.small import search_on_maps, small_search
from ray.tune.schedulers import TrialScheduler

from raylab.dense.proxy import OBJECTIVE
from raylab.dense.run import CellSearcher, Halving, run
from raylab.dense.search_plan import SamplerConfig, check, placed
from raylab.dense.trials import folder_of, ranked, read_tried, write_drawn, write_end, write_look
from raylab.errors import RaylabError
from raylab.models.cell_space import cell_at, read_cell
from raylab.recipes.search import SEARCH, dpc_search_miniworld, dpc_search_smoke
from raylab.storage import Folder


def test_cells_are_tried_and_more_of_them_behind_what_is_there(ray_cluster: None, tmp_path: Path) -> None:
    config = search_on_maps(tmp_path, concurrent=1, cells=3)
    summary = run(config)
    out = Folder(str(tmp_path))
    tried = read_tried(out)
    assert len(tried) == summary["cells"] == 3 and summary["full"] == {}
    assert summary["finished"] + summary.get("stopped", 0) == 3
    for one in tried:
        steps = [point["step"] for point in one.result.points]
        assert steps == ([2, 4] if one.is_whole else [2]) and 0 <= one.score <= 1
    assert read_cell(summary["best_cell"]) == ranked(tried)[0].cell
    (tmp_path / "trials/00001/end.json").unlink()  # as if it had been killed there
    more = run(replace(config, cells=4))
    again = read_tried(out)
    assert [one.cell for one in again[:3]] == [one.cell for one in tried] and more["cells"] == 4
    assert all(one.result.status != "unfinished" for one in again)
    with pytest.raises(RaylabError, match=r"other settings:\n  seed: 0 -> 1"):
        run(replace(config, seed=1))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_search_tries_all_cells_trains_the_best_and_goes_on(ray_cluster: None, tmp_path: Path) -> None:
    config = small_search(tmp_path, concurrent=2, cells=3)
    summary = run(config)
    out = Folder(str(tmp_path))
    tried = read_tried(out)
    assert len(tried) == summary["cells"] == 3
    assert summary["finished"] + summary.get("stopped", 0) == 3
    for one in tried:
        steps = [point["step"] for point in one.result.points]
        assert steps == ([2, 4] if one.is_whole else [2]) and 0 <= one.score <= 1
    best = ranked(tried)[0]
    assert read_cell(summary["best_cell"]) == best.cell
    assert set(summary["full"]) == {f"{best.number:05d}"}
    assert Path(summary["full"][f"{best.number:05d}"]["model"], "model.safetensors").exists()
    assert "<svg" in (tmp_path / "search.html").read_text()
    maps = {path: path.stat().st_mtime_ns for path in (tmp_path / "features").rglob("*.npy")}
    assert len(maps) == 4

    (tmp_path / "trials/00001/end.json").unlink(missing_ok=True)  # as if it had been killed there
    more = run(replace(config, cells=4))
    again = read_tried(out)
    assert [one.cell for one in again[:3]] == [one.cell for one in tried] and len(again) == 4
    assert all(one.result.status != "unfinished" for one in again) and more["cells"] == 4
    assert {path: path.stat().st_mtime_ns for path in maps} == maps  # computed once


def searched(tmp_path: Path, **changes: Any) -> CellSearcher:
    return CellSearcher(small_search(tmp_path, branches=5, cells=6, **changes), Folder(str(tmp_path)))


def test_a_searcher_writes_cells_down_as_it_draws_them_and_knows_them_again(tmp_path: Path) -> None:
    first = searched(tmp_path)
    drawn = [first.suggest(str(number)) for number in range(4)]
    assert [one["number"] for one in drawn] == list(range(4)) and first.missing == 6
    for number, score in enumerate((0.3, 0.6, 0.1)):
        write_look(folder_of(Folder(str(tmp_path)), number), [{"step": 4, OBJECTIVE: score, "weights": 1}])
        write_end(folder_of(Folder(str(tmp_path)), number), "finished")
    again = searched(tmp_path)
    assert again.missing == 3  # one that has no end, and two that were not drawn
    assert again.suggest("a") == drawn[3]
    assert again.suggest("b")["number"] == 4
    assert again.name(SimpleNamespace(trial_id="b")) == "00004"
    assert [one.number for one in ranked(again.tried)] == [1, 0, 2]


def test_a_cell_that_was_stopped_or_died_is_told_apart(tmp_path: Path) -> None:
    searcher = searched(tmp_path)
    for name in "abc":
        searcher.suggest(name)
    searcher.on_trial_complete("a", {"step": 2, OBJECTIVE: 0.2})
    searcher.on_trial_complete("b", None, error=True)
    searcher.on_trial_complete("c", {"step": 4, OBJECTIVE: math.nan})
    ends = [one.result.status for one in read_tried(Folder(str(tmp_path)))]
    assert ends == ["stopped", "failed", "stopped"]


def test_early_stopping_begins_with_what_was_seen_before(tmp_path: Path) -> None:
    out = Folder(str(tmp_path))
    for number, score in enumerate((0.5, 0.6)):
        write_drawn(out, number, cell_at(number))
        write_look(folder_of(out, number), [{"step": 2, OBJECTIVE: score, "weights": 1}])
        write_end(folder_of(out, number), "stopped")
    scheduler = Halving(3, 4, read_tried(out))
    controller: Any = None

    def told(step: int, value: float) -> str:
        return scheduler.on_trial_result(controller, None, {"step": step, OBJECTIVE: value})

    assert told(2, 0.4) == TrialScheduler.STOP
    assert told(2, 0.7) == TrialScheduler.CONTINUE
    assert told(2, math.nan) == TrialScheduler.STOP
    assert told(4, 0.0) == TrialScheduler.CONTINUE  # at its end it ends by itself


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"out": ""}, "--out is missing"),
        ({"out": "s3://bucket/search"}, "memory mapping"),
        ({"backbone_steps": 0}, "would have random weights: give --full.task.encoder.weights"),
        ({"cells": 0}, "--cells 0: it has to be 1 or more"),
        ({"cells": 82, "branches": 1}, "there are 81 cells of 1 branches"),
        ({"sampler": SamplerConfig("nearest")}, "'nearest' is not known: near_best, uniform. Did you mean 'near_best'"),
        ({"sampler": SamplerConfig(uniform_share=2)}, "--sampler.uniform-share 2: 0 to 1"),
        ({"cpus": 0.0}, "--cpus 0.0"),
        ({"full": replace(dpc_search_smoke().full, accelerator="xla")}, "compile each anew: search with cpu or cuda"),
    ],
)
def test_what_cannot_run_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(RaylabError, match=said):
        check(replace(small_search(tmp_path), **changes))


@pytest.mark.parametrize(("given", "gpus", "taken"), [("auto", 0.0, "cpu"), ("auto", 0.5, "cuda"), ("cpu", 1.0, "cpu")])
def test_a_hosts_tpu_is_never_taken(tmp_path: Path, given: str, gpus: float, taken: str) -> None:
    config = small_search(tmp_path)
    made = placed(replace(config, gpus=gpus, full=replace(config.full, accelerator=given)))
    assert made.full.accelerator == taken


def test_a_folder_of_another_kind_of_sweep_is_refused(tmp_path: Path) -> None:
    (tmp_path / "trials/00000").mkdir(parents=True)
    (tmp_path / "trials/00000/trial.json").write_text(json.dumps({"values": {"optim.rate": 1}}))
    with pytest.raises(RaylabError, match="made by no search for cells"):
        read_tried(Folder(str(tmp_path)))


def test_recipes_name_themselves_and_are_sound() -> None:
    assert {name: made().recipe for name, made in SEARCH.items()} == {name: name for name in SEARCH}
    check(replace(dpc_search_miniworld(), out="somewhere"))

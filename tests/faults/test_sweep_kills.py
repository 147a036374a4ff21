"""A sweep's driver, one of its trials or a worker is killed: the same line accounts for all, and ends none twice.

Each trial has one folder and one final look; its steps come once each, and equal those of an undisturbed sweep.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest
from faults import kills
from train.training_store import Store, make_store

SAMPLES, STEPS, LOOKS = 4, 12, 3
TARGETS = {"driver": "", "trial": "ray::ResourceTrainable", "worker": "ray::RayTrainWorker"}
TIMING = ("step_s", "evaluate_s", "images_per_s", "memory_gb")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("sweep"))


def job(store: Store, out: Path) -> list[str]:
    """Return the line of a small sweep."""
    flags: dict[str, Any] = {
        "recipe": "mofi_miniworld",
        "source.uri": store.source,
        "labels": store.labels,
        "kb": store.kb,
        "out": out,
        "steps": STEPS,
        "batch": 16,
        "data.held-out": 0.2,
        "track.every": 1,
        "track.project": "",
        "samples": SAMPLES,
        "objective": "held_out/text_top1",
        "schedule.scheduler": "none",  # which trials asha ends depends on their order
        "schedule.looks": LOOKS,
        "space": "none",
        "space.optim.rate": "loguniform(1e-4, 1e-2)",
    }
    return [
        sys.executable,
        "jobs/tune.py",
        *(word for name, value in flags.items() for word in (f"--{name}", str(value))),
    ]


def told(out: Path) -> dict[float, dict[int, dict[str, float]]]:
    """Return each trial's curves by its rate; a trial, or a step, that is there twice fails."""
    found: dict[float, dict[int, dict[str, float]]] = {}
    for trial in json.loads((out / "trials.json").read_text()):
        assert trial["status"] == "finished", trial
        rate = trial["values"]["optim.rate"]
        assert rate not in found
        lines = [json.loads(line) for line in (out / "trials" / trial["id"] / "curves.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
        found[rate] = {line.pop("step"): {k: v for k, v in line.items() if k not in TIMING} for line in lines}
    return found


@pytest.fixture(scope="module")
def undisturbed(store: Store, tmp_path_factory: pytest.TempPathFactory) -> dict[float, dict[int, dict[str, float]]]:
    out = tmp_path_factory.mktemp("undisturbed") / "sweep"
    kills.finish(kills.start(job(store, out), str(out)), str(out), 600)
    return told(out)


def looks(out: Path) -> int:
    """Return how many looks all trials have behind them: lines that have the objective."""
    return sum(path.read_text().count("held_out/text_top1") for path in out.glob("trials/*/curves.jsonl"))


@pytest.mark.parametrize("seed", range(10))
def test_a_killed_sweep_accounts_for_all_trials_and_ends_none_twice(
    seed: int, store: Store, undisturbed: dict[float, dict[int, dict[str, float]]], tmp_path: Path
) -> None:
    rng = random.Random(seed)
    victim, after = list(TARGETS)[seed % len(TARGETS)], rng.randrange(1, SAMPLES * LOOKS - 2)
    out = tmp_path / "sweep"
    process = kills.start(job(store, out), str(out))
    assert kills.kill_at(process, TARGETS[victim], lambda: looks(out) >= after, rng), "the sweep was over before"
    if victim == "driver":
        process = kills.start(job(store, out), str(out))
    kills.finish(process, str(out), 600)
    assert told(out) == undisturbed
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["trials"], summary["finished"], summary["steps"]) == (SAMPLES, SAMPLES, SAMPLES * STEPS)

"""jobs/tune.py as a user starts it: mistakes are named before anything runs, the best is what jobs/train.py takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from jobs.in_process import called
from train.training_store import Store, make_store

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
SMALL = (
    "--recipe",
    "mofi_miniworld",
    "--steps",
    "6",
    "--batch",
    "16",
    "--data.held-out",
    "0.2",
    "--schedule.looks",
    "2",
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("tuning"), rows=120, parts=2)


def flags_of(store: Store, out: Path) -> list[str]:
    return ["--labels", store.labels, "--kb", store.kb, "--source", store.source, "--out", str(out)]


def run(job: str, store: Store, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, f"jobs/{job}.py", *flags_of(store, out), *more]
    return subprocess.run(line, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_best_of_a_sweep_trains_as_a_recipe(store: Store, tmp_path: Path) -> None:
    sweep = ("--samples", "2", "--objective", "held_out/text_top1")
    done = run(
        "tune",
        store,
        tmp_path / "sweep",
        *SMALL,
        *sweep,
        "--space",
        "none",
        "--space.optim.rate",
        "uniform(1e-4, 1e-2)",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = done.stdout.splitlines()  # Ray's warning of many processes is kept out of it
    summary = json.loads(line)
    assert summary["finished"] + summary.get("stopped", 0) == 2
    assert "held_out/text_top1" in done.stderr
    assert (tmp_path / "sweep" / "sweep.html").stat().st_size > 1_000_000  # plotly inside
    again = run(
        "train", store, tmp_path / "run", "--recipe", summary["best_recipe"], "--steps", "2", "--track.project", ""
    )
    assert again.returncode == 0, again.stderr[-3000:]
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["optim"]["rate"] == summary["values"]["optim.rate"]
    assert config["steps"] == 2


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((*SMALL, "--sampels", "3"), "There is no flag --sampels. Did you mean '--samples'?"),
        ((*SMALL, "--space.optim.rat", "uniform(0, 1)"), "Did you mean 'optim.rate'?"),
        ((*SMALL, "--search.algorithm", "optna"), "Did you mean 'optuna'?"),
    ],
)
def test_mistakes_are_named(store: Store, tmp_path: Path, flags: tuple[str, ...], said: str) -> None:
    done = called("tune", *flags_of(store, tmp_path / "sweep"), *flags)
    assert done.returncode == 2
    assert done.stderr.startswith("tune: ")
    assert said in done.stderr
    assert not (tmp_path / "sweep").exists()


def test_a_mistake_is_the_processs_status(store: Store, tmp_path: Path) -> None:
    done = run("tune", store, tmp_path / "sweep", "--recipe", "/nowhere/best.json")
    assert done.returncode == 2
    assert done.stderr.startswith("tune: ")
    assert "no recipe there" in done.stderr
    assert "Traceback" not in done.stderr

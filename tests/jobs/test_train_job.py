"""jobs/train.py as a user starts it, under Ray Train: two workers, killed and begun again; mistakes are named."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from train.training_store import Store, make_store

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("training"), rows=120, parts=2)


def line(store: Store, out: Path, *more: str) -> list[str]:
    flags = ["--labels", store.labels, "--kb", store.kb, "--source", store.source, "--out", str(out)]
    return [sys.executable, "jobs/train.py", *flags, *more]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)


def curves(out: Path) -> dict[int, dict[str, float]]:
    points = [json.loads(line) for line in (out / "curves.jsonl").read_text().splitlines()]
    found = {point.pop("step"): point for point in points}
    assert len(found) == len(points)
    return {step: {name: value for name, value in point.items() if "loss" in name} for step, point in found.items()}


SMALL = ("--recipe", "mofi_miniworld", "--steps", "12", "--batch", "16", "--track.every", "1")
OFTEN = ("--checkpoint.every", "3", "--track.evaluate-every", "6", "--data.held-out", "0.2")


@pytest.mark.timeout(400)
def test_two_workers_killed_and_begun_again(store: Store, tmp_path: Path) -> None:
    flags = (*SMALL, *OFTEN, "--parallel.workers", "2", "--parallel.cpus", "0.5")
    whole = run(*line(store, tmp_path / "whole", *flags))
    assert whole.returncode == 0, whole.stderr[-3000:]
    summary = json.loads(whole.stdout.splitlines()[-1])
    assert summary["steps"] == 12
    assert summary["last"]["loss"] == pytest.approx(curves(tmp_path / "whole")[12]["loss"])

    killed = subprocess.Popen(
        line(store, tmp_path / "killed", *flags),
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    pointer = tmp_path / "killed" / "checkpoints" / "LAST.json"
    while not pointer.exists():
        assert killed.poll() is None
        time.sleep(0.05)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    again = run(*line(store, tmp_path / "killed", *flags))
    assert again.returncode == 0, again.stderr[-3000:]
    assert "goes on from step" in again.stderr + again.stdout
    assert curves(tmp_path / "killed")[12] == curves(tmp_path / "whole")[12]

    assert sorted(path.name for path in (tmp_path / "whole" / "model").iterdir()) == sorted(
        path.name for path in (tmp_path / "killed" / "model").iterdir()
    )
    assert list((tmp_path / "whole").glob("wandb/offline-run-*/*.wandb"))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--recipe", "mofi_minworld"), "Did you mean 'mofi_miniworld'?"),
        ((*SMALL, "--batch", "100000"), "a batch takes 100000"),
        ((*SMALL, "--batch", "15", "--parallel.workers", "2"), "cannot be shared by 2 workers"),
        ((*SMALL, "--parallel.strategy", "dpp"), "Did you mean 'ddp'?"),
        ((*SMALL, "--labels", "/nowhere"), "holds no label store"),
        ((*SMALL, "--kb", "/nowhere"), "is no knowledge base"),
    ],
)
def test_mistakes_are_named(flags: tuple[str, ...], said: str, store: Store, tmp_path: Path) -> None:
    done = run(*line(store, tmp_path, *flags))
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr

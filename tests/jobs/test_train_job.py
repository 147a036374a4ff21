"""jobs/train.py as a user starts it: two workers under Ray Train, curves in W&B; mistakes are named."""

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


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("training"), rows=120, parts=2)


def line(store: Store, out: Path, *more: str) -> list[str]:
    flags = ["--labels", store.labels, "--kb", store.kb, "--source", store.source, "--out", str(out)]
    return [sys.executable, "jobs/train.py", *flags, *more]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)


SMALL = ("--recipe", "mofi_miniworld", "--steps", "12", "--batch", "16", "--track.every", "1")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_workers_train_and_tell(store: Store, tmp_path: Path) -> None:
    more = ("--checkpoint.every", "6", "--track.evaluate-every", "6", "--data.held-out", "0.2")
    done = run(*line(store, tmp_path, *SMALL, *more, "--parallel.workers", "2", "--parallel.cpus", "0.5"))
    assert done.returncode == 0, done.stderr[-3000:]
    summary = json.loads(done.stdout.splitlines()[-1])
    points = [json.loads(text) for text in (tmp_path / "curves.jsonl").read_text().splitlines()]
    assert [point["step"] for point in points] == list(range(1, 13))
    assert summary["last"]["loss"] == points[-1]["loss"]
    assert summary["last"]["held_out/loss"] > 0
    assert "2 workers begin at step 0" in done.stderr
    assert (tmp_path / "model" / "open_clip_config.json").exists()
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert list(tmp_path.glob("wandb/offline-run-*/files/media/images/*.png"))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((*SMALL, "--batch", "15", "--parallel.workers", "2"), "cannot be shared by 2 workers"),
        ((*SMALL, "--parallel.strategy", "dpp"), "Did you mean 'ddp'?"),
        ((*SMALL, "--labels", "/nowhere"), "holds no label store"),
        ((*SMALL, "--kb", "/nowhere"), "is no knowledge base"),
    ],
)
def test_mistakes_are_named(flags: tuple[str, ...], said: str, store: Store, tmp_path: Path) -> None:
    done = called("train", *line(store, tmp_path, *flags)[2:])
    assert done.returncode == 2
    assert said in done.stderr


def test_a_mistake_is_the_processs_status(store: Store, tmp_path: Path) -> None:
    done = run(*line(store, tmp_path, "--recipe", "mofi_minworld"))
    assert done.returncode == 2
    assert "Did you mean 'mofi_miniworld'?" in done.stderr
    assert "Traceback" not in done.stderr

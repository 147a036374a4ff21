"""MUG by jobs/train.py, its encoder scored by jobs/evaluate.py, then tuned to entities: as a user starts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from train.training_store import make_store
from wandb_files import read_wandb, wandb_folders

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}


def job(name: str, *arguments: object) -> dict:
    done = subprocess.run(
        [sys.executable, ROOT / "jobs" / f"{name}.py", *map(str, arguments)],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_pretrained_encoder_is_scored_and_tuned(tmp_path: Path) -> None:
    store = make_store(tmp_path, rows=200, parts=2)
    rows = ("--labels", store.labels, "--kb", store.kb, "--source", store.source, "--data.held-out", "0.2")
    steps = ("--steps", "8", "--batch", "32", "--track.evaluate-every", "4", "--checkpoint.every", "4")
    pretrained = job("train", "--recipe", "mug_miniworld", *rows, *steps, "--out", tmp_path / "mug")
    assert {"held_out/caption_top1", "held_out/explained"} <= set(pretrained["last"])
    (board,) = map(read_wandb, wandb_folders(tmp_path / "mug"))
    assert all("(right: " in said and "error of what was masked" in said for said in board.captions("held_out"))
    told = json.loads((tmp_path / "mug" / "samples.json").read_text())
    assert len(told) == 8

    more = ("--suite", "probe", "--data", "miniworld://?rows=80&seed=901", "--plots", "--threads", "1")
    scores = job("evaluate", "--recipe", "smoke", "--model", tmp_path / "mug", *more, "--out", tmp_path / "scores")
    assert 0 <= scores["scores"]["probe/linear/all/top-1"] <= 1
    report = (tmp_path / "scores" / "report.html").read_text()
    assert report.count("held out in training: ") >= 8

    for recipe in ("finetune_miniworld", "linear_probe_miniworld"):
        weights = ("--task.encoder.weights", tmp_path / "mug", "--out", tmp_path / recipe)
        found = job("train", "--recipe", recipe, *rows, *steps, *weights)
        assert 0 <= found["last"]["held_out/top1"] <= 1
        names = json.loads((tmp_path / recipe / "model" / "config.json").read_text())["label_names"]
        assert len(names) == found["classes"]

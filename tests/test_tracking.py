from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import pytest

from raylab.storage import Folder
from raylab.tracking import Tracker


def test_what_wandb_keeps_on_this_host_ends_in_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    out = Folder(f"memory://{uuid.uuid4().hex}/run")
    tracker = Tracker(out, "raylab", {"steps": 2})
    tracker.add(1, {"loss": 2.0})
    tracker.close()
    assert json.loads(out.read_bytes("curves.jsonl")) == {"step": 1, "loss": 2.0}
    run = out.read_json("wandb.json")["id"]
    kept = [path.rpartition("/")[2] for path in out.fs.find(out.path("wandb"))]
    assert f"run-{run}.wandb" in kept
    assert not list(tmp_path.glob("raylab-wandb-*")), "nothing stays on this host"
    again = Tracker(out, "", {}, start=1)
    assert again.last == {"loss": 2.0}
    again.close()


ENDED_AS_RAY_ENDS_WORKERS = """
import os, sys
import numpy as np
from raylab.storage import Folder
from raylab.tracking import Tracker, clear_temporary
tracker = Tracker(Folder(sys.argv[1]), "raylab", {})
tracker.add_images("held_out", [(np.zeros((4, 4, 3), np.uint8), "a picture")])
tracker.close()
clear_temporary()
os._exit(0)
"""


def test_a_process_that_is_ended_leaves_nothing_of_wandbs(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    line = [sys.executable, "-c", ENDED_AS_RAY_ENDS_WORKERS, str(tmp_path / "run")]
    environment = os.environ | {"WANDB_MODE": "offline", "TMPDIR": str(tmp_path / "tmp")}
    subprocess.run(line, check=True, env=environment, capture_output=True, timeout=120)
    assert list((tmp_path / "run").glob("wandb/offline-run-*/files/media/images/*.png"))
    assert not list((tmp_path / "tmp").glob("*wandb-*"))


class Board:
    """Stands in for a run of W&B that is kept offline."""

    offline = True

    def __init__(self) -> None:
        self.steps: list[int] = []

    def log(self, point: dict) -> None:
        self.steps.append(point["step"])

    def finish(self) -> None:
        """Nothing is to be done."""


def test_a_run_that_goes_on_sends_no_point_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = Board()
    monkeypatch.setattr("raylab.tracking._open_wandb", lambda *arguments: board)
    killed = Tracker(Folder(str(tmp_path)), "raylab", {})
    for step in range(1, 6):
        killed.add(step, {"loss": 1.0})
        if step == 4:
            killed.flush()  # a checkpoint; the run is killed after step 5
    again = Tracker(Folder(str(tmp_path)), "raylab", {}, start=4)
    for step in (5, 6):
        again.add(step, {"loss": 1.0})
    again.close()
    assert board.steps == [1, 2, 3, 4, 5, 6]
    lines = [json.loads(line)["step"] for line in (tmp_path / "curves.jsonl").read_text().splitlines()]
    assert lines == [1, 2, 3, 4, 5, 6]


def test_what_wandbs_server_has_is_not_sent_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = Board()
    board.offline, board.summary = False, {"step": 5}  # type: ignore[attr-defined]
    monkeypatch.setattr("raylab.tracking._open_wandb", lambda *arguments: board)
    tracker = Tracker(Folder(str(tmp_path)), "raylab", {}, start=4)
    for step in (5, 6):
        tracker.add(step, {"loss": 1.0})
    assert board.steps == [6]

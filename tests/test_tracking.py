"""Curves, and what W&B keeps of a run: whole where all is well, and no run lost where it is not."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wandb
from wandb_files import read_wandb, wandb_folders
from wandb_server import served

from raylab.errors import RaylabError
from raylab.storage import Folder
from raylab.tracking import Tracker, TrackingConfig, check_installed, open_run

KEY = "0123456789abcdef0123456789abcdef01234567"
SECONDS = 60.0
"""For what ends by itself long before."""


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")


@pytest.mark.usefixtures("offline")
def test_all_that_is_told_is_read_back(tmp_path: Path) -> None:
    out = Folder(str(tmp_path / "trials" / "7f3a"))
    out.write_json("config.json", {"steps": 4})
    tracker = Tracker(out, "flags", {"optim": {"rate": 1e-3}, "steps": 4}, group="sweep-1")
    tracker.add(2, {"loss": 2.0, "rate/all": 0.1})
    tracker.add_images("held_out", [(np.zeros((4, 4, 3), np.uint8), "Q183")])
    tracker.add(4, {"loss": 1.0, "rate/all": 0.2})
    tracker.extend(4, {"hm": 0.5})
    tracker.close()

    (folder,) = wandb_folders(tmp_path / "trials" / "7f3a")
    run = read_wandb(folder)
    assert (run.project, run.group, run.job_type, run.name) == ("flags", "sweep-1", "train", "7f3a")
    assert run.config == {"optim": {"rate": 1e-3}, "steps": 4}
    assert [point["loss"] for point in run.points() if "loss" in point] == [2.0, 1.0]
    assert run.points()[-1] == {"step": 4, "hm": 0.5}
    assert run.summary["loss"] == 1.0 and run.summary["hm"] == 0.5
    assert run.captions("held_out") == ["Q183"]
    assert {"config.json", "curves.jsonl"} <= set(run.files)
    assert json.loads((folder / "files" / "config.json").read_text()) == {"steps": 4}
    assert run.exit_code == 0


@pytest.mark.usefixtures("offline")
def test_the_machine_is_watched_beside_the_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_X_STATS_SAMPLING_INTERVAL", "0.1")
    wandb.teardown()  # it reads its variables once a process
    tracker = Tracker(Folder(str(tmp_path)), "flags", {})
    time.sleep(2)  # it samples by itself, every quarter of a minute in a real run
    tracker.add(1, {"loss": 2.0})
    tracker.close()
    wandb.teardown()
    told = read_wandb(*wandb_folders(tmp_path))
    assert len(told.system) > 1
    assert {"memory_percent", "proc.memory.rssMB"} <= set().union(*told.system)
    assert any(name.startswith("cpu") for sample in told.system for name in sample)


@pytest.mark.usefixtures("offline")
def test_what_became_known_later_is_part_of_the_point(tmp_path: Path) -> None:
    tracker = Tracker(Folder(str(tmp_path)), "", {})
    tracker.add(1, {"loss": 2.0})
    tracker.add(2, {"loss": 1.0})
    tracker.extend(2, {"hm": 0.5})
    lines = [json.loads(line) for line in (tmp_path / "curves.jsonl").read_text().splitlines()]
    assert lines == [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0, "hm": 0.5}], "without waiting for a checkpoint"
    assert tracker.last == {"loss": 1.0, "hm": 0.5}
    assert Tracker(Folder(str(tmp_path)), "", {}, start=2).last == {"loss": 1.0, "hm": 0.5}


@pytest.mark.usefixtures("offline")
def test_a_finished_run_tells_tables_figures_pictures_and_files(tmp_path: Path) -> None:
    out = Folder(str(tmp_path / "labels"))
    out.write_bytes("README.md", b"# card")
    with open_run(out, TrackingConfig("flags", "nightly"), {"recipe": "i2e"}, "label") as run:
        run.add_table("steps", ("name", "rows", "rows_per_s"), [("link", 3, None), ("select", 2, 1.5)])
        run.summarise({"labelled": 2, "truth": {"select": {"precision": 0.5}}})
        run.attach(["README.md", "not there"])
    (folder,) = wandb_folders(tmp_path / "labels")
    told = read_wandb(folder)
    assert (told.group, told.job_type, told.name) == ("nightly", "label", "labels")
    assert told.table("steps") == [
        {"name": "link", "rows": 3, "rows_per_s": None},
        {"name": "select", "rows": 2, "rows_per_s": 1.5},
    ]
    assert told.summary["labelled"] == 2
    assert told.summary["truth"] == {"select": {"precision": 0.5}}
    assert "README.md" in told.files
    assert not (folder / "files" / "README.md").is_symlink(), "the folder may be moved before it is sent"


@pytest.mark.usefixtures("offline")
def test_a_run_that_died_is_shown_as_such(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError),
        open_run(Folder(str(tmp_path)), TrackingConfig("flags"), {}, "evaluate"),
    ):
        raise RuntimeError
    assert read_wandb(*wandb_folders(tmp_path)).exit_code == 1


@pytest.mark.usefixtures("offline")
def test_what_wandb_keeps_on_this_host_ends_in_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


@pytest.mark.usefixtures("offline")
def test_a_run_that_goes_on_sends_no_point_twice(tmp_path: Path) -> None:
    killed = Tracker(Folder(str(tmp_path)), "raylab", {})
    for step in range(1, 6):
        killed.add(step, {"loss": 1.0})
        if step == 4:
            killed.flush()  # a checkpoint; the run is killed after step 5
    killed._wandb.finish()
    again = Tracker(Folder(str(tmp_path)), "raylab", {}, start=4)
    for step in (5, 6):
        again.add(step, {"loss": 1.0})
    again.close()
    runs = [read_wandb(folder) for folder in wandb_folders(tmp_path)]
    assert runs[0].id == runs[1].id
    assert sorted(point["step"] for run in runs for point in run.points()) == [1, 2, 3, 4, 5, 6]
    lines = [json.loads(line)["step"] for line in (tmp_path / "curves.jsonl").read_text().splitlines()]
    assert lines == [1, 2, 3, 4, 5, 6]


def test_no_project_and_wandb_disabled_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    for project in ("", "raylab"):
        with open_run(Folder(str(tmp_path)), TrackingConfig(project), {}, "label") as run:
            run.add_table("steps", ("name",), [["link"]])
            run.attach(["config.json"])
    assert not list(tmp_path.iterdir())


def test_wandb_is_asked_for_and_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    check_installed(TrackingConfig())
    with pytest.raises(RaylabError, match=r"raylab\[train\]"):
        check_installed(TrackingConfig("flags"))


# -- W&B's server and service do what they like: each in a process of its own, as W&B's settings are a process's

RUN = """
import os, sys, time
import numpy as np
import psutil
from raylab import tracking
from raylab.storage import Folder
out, then = sys.argv[1:3]  # a folder; what happens after the first point
tracking.INIT_SECONDS, tracking.FINISH_SECONDS = map(float, sys.argv[3:])
tracker = tracking.Tracker(Folder(out), "raylab", {"steps": 3}, say=lambda line: print(line, flush=True))
tracker.add(1, {"loss": 2.0})
if then == "server goes":
    print("READY", flush=True)
    sys.stdin.readline()
if then == "service dies":
    for process in psutil.Process().children(recursive=True):
        process.kill()
    time.sleep(0.5)
tracker.add(2, {"loss": 1.0})
tracker.add_images("held_out", [(np.zeros((4, 4, 3), np.uint8), "a picture")])
tracker.add(3, {"loss": 0.5})
tracker.close()
tracking.clear_temporary()
print("ENDED", flush=True)
os._exit(0)  # as Ray ends its workers
"""


def start(
    folder: Path, then: str = "", init: float = SECONDS, finish: float = SECONDS, **environment: str
) -> subprocess.Popen[str]:
    """Start a run with a home of its own, and the seconds for which it waits for W&B when it begins and ends."""
    for name in ("home", "tmp"):
        (folder / name).mkdir(parents=True)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    given = clean | {"HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp")} | environment
    line = [sys.executable, "-c", RUN, str(folder / "run"), then, str(init), str(finish)]
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(line, env=given, text=True, **pipes)


def end(process: subprocess.Popen[str]) -> str:
    """Wait for a run; it ends well, and in time, whatever W&B did."""
    said, complaints = process.communicate(timeout=2 * SECONDS)
    assert process.returncode == 0, complaints
    assert said.endswith("ENDED\n")
    return said


def known(folder: Path) -> None:
    """Make a run one that W&B knows, so that it is gone on with."""
    (folder / "run").mkdir(parents=True)
    (folder / "run" / "wandb.json").write_text(json.dumps({"id": "abc123", "project": "raylab"}))


def curves(folder: Path) -> list[Mapping[str, float]]:
    return [json.loads(line) for line in (folder / "run" / "curves.jsonl").read_text().splitlines()]


def check_no_key(folder: Path) -> None:
    """See that the key is in no file of a run, its home and its temporary folder."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert files
    assert not [file for file in files if KEY.encode() in file.read_bytes()]


def test_a_server_that_does_not_take_the_run(tmp_path: Path) -> None:
    known(tmp_path / "silent")
    with ExitStack() as stack:
        silent = stack.enter_context(socket.socket())
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        addresses = {
            "closed": "http://127.0.0.1:9",
            "silent": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "broken": stack.enter_context(served(500)).address,
            "refuses": stack.enter_context(served(401)).address,
            "no key": "http://127.0.0.1:9",
        }
        keys = dict.fromkeys(addresses, KEY) | {"no key": "x"}
        runs = {
            name: start(tmp_path / name, init=3, WANDB_API_KEY=keys[name], WANDB_BASE_URL=address)
            for name, address in addresses.items()
        }
        said = {name: end(process) for name, process in runs.items()}
    for name, lines in said.items():
        assert f"wandb sync {tmp_path / name / 'run'}/wandb/offline-run-" in lines, lines
        (folder,) = wandb_folders(tmp_path / name / "run")
        assert folder.name.startswith("offline-run-"), "nothing stays of the run that was not begun"
        assert [point["loss"] for point in read_wandb(folder).points()] == [2.0, 1.0, 0.5]
        assert len(curves(tmp_path / name)) == 3
        check_no_key(tmp_path / name)
    assert read_wandb(*wandb_folders(tmp_path / "silent" / "run")).id == "abc123"


def test_what_a_server_takes_and_does_not_get_again(tmp_path: Path) -> None:
    known(tmp_path / "again")
    with served() as server, served(step=2) as again:
        servers = {"first": server, "again": again}
        runs = [start(tmp_path / name, WANDB_API_KEY=KEY, WANDB_BASE_URL=one.address) for name, one in servers.items()]
        assert [end(process) for process in runs] == ["ENDED\n"] * 2, "nothing to complain of"
    losses = {name: [row["loss"] for row in one.history if "loss" in row] for name, one in servers.items()}
    assert losses == {"first": [2.0, 1.0, 0.5], "again": [0.5]}
    assert server.files["curves.jsonl"] == (tmp_path / "first" / "run" / "curves.jsonl").read_bytes()
    assert any(name.startswith("media/images/") for name in server.files)
    check_no_key(tmp_path)


def test_a_server_that_goes_while_the_run_is_under_way(tmp_path: Path) -> None:
    with served() as server:
        process = start(tmp_path, "server goes", finish=2, WANDB_API_KEY=KEY, WANDB_BASE_URL=server.address)
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == "READY\n"
    process.stdin.write("\n")
    process.stdin.flush()
    said = end(process)
    assert f"wandb sync {tmp_path / 'run'}/wandb/run-" in said
    assert [point["loss"] for point in read_wandb(*wandb_folders(tmp_path / "run")).points()] == [2.0, 1.0, 0.5]
    check_no_key(tmp_path)


def test_a_service_that_dies_costs_wandb_and_no_more(tmp_path: Path) -> None:
    said = end(start(tmp_path, "service dies", WANDB_MODE="offline"))
    assert "W&B is told no more of this run" in said
    assert [point["loss"] for point in curves(tmp_path)] == [2.0, 1.0, 0.5]


def test_a_process_that_is_ended_leaves_nothing_of_wandbs(tmp_path: Path) -> None:
    end(start(tmp_path, WANDB_API_KEY=KEY, WANDB_MODE="offline"))
    assert list((tmp_path / "run").glob("wandb/offline-run-*/files/media/images/*.png"))
    assert not list((tmp_path / "tmp").glob("*wandb-*"))
    check_no_key(tmp_path)

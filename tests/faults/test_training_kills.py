"""A worker of a training run is killed, or the whole job: it makes the steps of an undisturbed run, to the last bit."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from faults import kills
from train.runs import small, train
from train.training_store import Store, make_store

from raylab.train.loop import Curve
from raylab.train.plan import CheckpointConfig, TrainConfig
from raylab.train.run import run

STEPS, EVERY = 30, 4
TIMING = ("step_s", "evaluate_s", "images_per_s", "memory_gb")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("training"))


def points(found: dict[int, Curve]) -> dict[int, Curve]:
    return {step: {key: point[key] for key in point if key not in TIMING} for step, point in found.items()}


def curves(out: Path) -> dict[int, Curve]:
    """Return the curves; a step that comes twice fails."""
    lines = [json.loads(line) for line in (out / "curves.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == sorted({line["step"] for line in lines})
    return points({line.pop("step"): line for line in lines})


def saved(out: Path) -> int:
    """Return the step of the last checkpoint, 0 before the first."""
    pointer = out / "checkpoints" / "LAST.json"
    return json.loads(pointer.read_text())["step"] if pointer.exists() else 0


def kill_worker_after(step: int, config: TrainConfig) -> threading.Thread:
    """Kill the run's worker when that step is saved."""

    def watch() -> None:
        while saved(Path(config.out)) < step:
            time.sleep(0.01)
        for process in psutil.process_iter(["cmdline"]):
            if any("RayTrainWorker" in word for word in process.info["cmdline"] or ()):
                os.kill(process.pid, signal.SIGKILL)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


@pytest.mark.parametrize("recipe", ["mofi_miniworld", "git_miniworld"])
def test_a_killed_worker_is_started_again_and_makes_the_same_steps(
    recipe: str, ray_cluster: None, store: Store, tmp_path: Path
) -> None:
    alone = train(small(recipe, store, tmp_path / "alone", steps=STEPS))
    config = small(recipe, store, tmp_path / "ray", steps=STEPS, checkpoint=CheckpointConfig(every=EVERY))
    killer = kill_worker_after(8, config)
    summary = run(config)
    killer.join()
    found = curves(tmp_path / "ray")
    assert found == points(alone)
    assert summary["last"]["loss"] == found[STEPS]["loss"]
    model = "git.json" if recipe.startswith("git") else "open_clip_model.safetensors"
    assert (tmp_path / "ray" / "model" / model).exists()


def job(recipe: str, store: Store, out: Path) -> list[str]:
    """Return the line that makes `small`'s run."""
    flags: dict[str, Any] = {
        "recipe": recipe,
        "source": store.source,
        "labels": store.labels,
        "kb": store.kb,
        "out": out,
        "steps": STEPS,
        "batch": 16,
        "checkpoint.every": EVERY,
        "track.every": 1,
        "track.project": "",
    }
    return [
        sys.executable,
        "jobs/train.py",
        *(word for key, value in flags.items() for word in (f"--{key}", str(value))),
    ]


def wait(process: psutil.Popen, until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not until():
        assert process.poll() is None, "the run was over before"
        assert time.monotonic() < deadline
        time.sleep(0.0005)


def kill_driver_at(process: psutil.Popen, out: Path, rng: random.Random) -> None:
    """SIGKILL the job alone, somewhere between two steps; Ray's processes notice, and go."""
    step = rng.randrange(EVERY, STEPS - EVERY, EVERY)
    wait(process, lambda: saved(out) >= step)
    time.sleep(rng.uniform(0, 0.5))
    kills.kill_driver(process)


def kill_all_while_it_saves(process: psutil.Popen, out: Path, rng: random.Random) -> None:
    """SIGKILL the job and all that it started, as when a machine goes: a checkpoint has a folder and no name yet."""
    step = rng.randrange(2 * EVERY, STEPS, EVERY)
    wait(process, lambda: saved(out) >= step - EVERY)
    all_of_it = [*process.children(recursive=True), process]
    wait(process, (out / "checkpoints" / f"step-{step:010d}").exists)
    for one in all_of_it:
        os.kill(one.pid, signal.SIGSTOP)  # at once: then each can be killed in its turn
    for one in all_of_it:
        one.kill()
    psutil.wait_procs(all_of_it, timeout=20)
    assert saved(out) == step - EVERY, "the checkpoint had a name already"


@pytest.mark.parametrize(
    ("recipe", "kill", "seed"),
    [
        ("mofi_miniworld", kill_driver_at, 0),
        ("git_miniworld", kill_driver_at, 1),
        ("mofi_miniworld", kill_all_while_it_saves, 2),
        ("clip_miniworld", kill_all_while_it_saves, 3),
    ],
)
def test_the_same_line_goes_on_where_the_job_was_killed(
    recipe: str, kill: Callable[[psutil.Popen, Path, random.Random], None], seed: int, store: Store, tmp_path: Path
) -> None:
    alone = train(small(recipe, store, tmp_path / "alone", steps=STEPS))
    out = tmp_path / "run"
    line = job(recipe, store, out)
    process = kills.start(line, str(out))
    try:
        kill(process, out, random.Random(seed))
        assert saved(out) < STEPS and not (out / "summary.json").exists()
        process = kills.start(line, str(out))
        kills.finish(process, str(out), seconds=300)
    finally:
        kills.end(process)
    assert curves(out) == points(alone)
    assert saved(out) == STEPS
    assert (out / "model").is_dir()

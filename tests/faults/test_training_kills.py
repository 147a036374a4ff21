"""A worker of a training run is killed: Ray starts it again, and it makes the steps of an undisturbed run."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest
from train.runs import small, train
from train.training_store import Store, make_store

from raylab.train.plan import CheckpointConfig, TrainConfig
from raylab.train.run import run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("training"))


def curves(out: Path) -> dict[int, float]:
    points = [json.loads(line) for line in (out / "curves.jsonl").read_text().splitlines()]
    return {point["step"]: point["loss"] for point in points}


def kill_worker_after(step: int, config: TrainConfig) -> threading.Thread:
    """Kill the run's worker when that step is saved."""
    pointer = Path(config.out) / "checkpoints" / "LAST.json"

    def watch() -> None:
        while not pointer.exists() or json.loads(pointer.read_text())["step"] < step:
            time.sleep(0.01)
        for process in psutil.process_iter(["cmdline"]):
            if any("RayTrainWorker" in word for word in process.info["cmdline"] or ()):
                os.kill(process.pid, signal.SIGKILL)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


@pytest.mark.timeout(300)
def test_a_killed_worker_is_started_again_and_makes_the_same_steps(
    ray_cluster: None, store: Store, tmp_path: Path
) -> None:
    alone = train(small("mofi_miniworld", store, tmp_path / "alone", steps=30))
    config = small("mofi_miniworld", store, tmp_path / "ray", steps=30, checkpoint=CheckpointConfig(every=4))
    killer = kill_worker_after(8, config)
    summary = run(config)
    killer.join()
    found = curves(tmp_path / "ray")
    assert sorted(found) == list(range(1, 31))
    assert found == {step: point["loss"] for step, point in alone.items()}
    assert summary["last"]["loss"] == found[30]
    assert (tmp_path / "ray" / "model" / "open_clip_model.safetensors").exists()

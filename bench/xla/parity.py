"""The trainer on XLA against the CPU trainer: the same recipes, the same rows, the loss after 50 steps.

    .venv-xla/bin/python bench/xla/parity.py [steps]        # after make setup-xla

clip, mofi and git as the mini-world's recipes have them (float32, batches of 32, no dropout), on one of XLA's CPU
devices and on a mesh of four, each in a process of its own, against the CPU trainer of the same torch on one thread.
Held-out rows are measured, samples decoded and checkpoints written every third step. Asked: losses equal within 1e-3
relative, and no program compiled after step 3. Seconds a step on XLA's CPU device say nothing of a TPU.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from train.runs import Told, prepared, small  # noqa: E402  (the tests' store, all of whose labels are right)
from train.training_store import Store, make_store  # noqa: E402
from xla.settings import settings  # noqa: E402

from raylab.train.plan import CheckpointConfig, ParallelConfig, TrackConfig, TrainConfig  # noqa: E402
from raylab.train.worker import read_here, work  # noqa: E402

TASKS = ("clip", "mofi", "git")
WARM = 3


def config_of(task: str, store: Store, out: Path, steps: int, accelerator: str) -> TrainConfig:
    """Return a mini-world recipe, as it is but for rows and batch."""
    config = small(f"{task}_miniworld", store, out, steps=steps, batch=32, accelerator=accelerator)
    return replace(
        config,
        data=replace(config.data, held_out=0.1),
        checkpoint=CheckpointConfig(every=WARM, keep=1),
        track=TrackConfig(every=1, evaluate_every=WARM, samples=4, project=""),
        parallel=ParallelConfig(threads=1),
    )


def train(config: TrainConfig) -> dict[int, dict[str, float]]:
    """Train in this process; return the points."""
    told = Told(lambda step, point: None)
    work(prepared(config), read_here, told)
    return told.points


def on_xla(folder: Path, steps: int) -> dict[str, Any]:
    """Train all tasks on this process's devices."""
    from raylab.train.accelerators.xla import compiled

    found = {}
    for task in TASKS:
        points = train(config_of(task, _store(folder), Path(tempfile.mkdtemp(dir=folder)), steps, "xla"))
        found[task] = {
            "loss": points[steps]["loss"],
            "programs": points[WARM + 1]["programs"],
            "compiled_later": compiled() - points[WARM + 1]["programs"],
            "first_step_s": round(points[1]["step_s"], 2),
            "step_s": round(sorted(point["step_s"] for point in points.values())[len(points) // 2], 3),
        }
    return found


def on_cpu(folder: Path, steps: int) -> dict[str, Any]:
    """Train all tasks by the CPU trainer."""
    runs = {task: config_of(task, _store(folder), Path(tempfile.mkdtemp(dir=folder)), steps, "cpu") for task in TASKS}
    points = {task: train(config) for task, config in runs.items()}
    return {
        task: {"loss": one[steps]["loss"], "step_s": round(sorted(p["step_s"] for p in one.values())[len(one) // 2], 3)}
        for task, one in points.items()
    }


def _store(folder: Path) -> Store:
    return Store(str(folder / "labels"), str(folder / "kb"), str(folder / "pairs.parquet"))


def _child(devices: int, folder: Path, steps: int) -> dict[str, Any]:
    command = [sys.executable, __file__, str(steps), str(folder)]
    done = subprocess.run(command, env=os.environ | settings(devices), stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main(steps: int) -> None:
    """Compare, and print the result as JSON."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_store(folder, rows=800)
        expected = on_cpu(folder, steps)
        found = {f"{devices} devices": _child(devices, folder, steps) for devices in (1, 4)}
    apart = {
        where: {task: abs(one[task]["loss"] / expected[task]["loss"] - 1) for task in TASKS}
        for where, one in found.items()
    }
    worst = max(max(one.values()) for one in apart.values())
    later = sum(one[task]["compiled_later"] for one in found.values() for task in TASKS)
    print(
        json.dumps(
            {
                "steps": steps,
                "cpu": expected,
                "xla": found,
                "relative_difference": apart,
                "worst": worst,
                "asked": 1e-3,
                "compiled_after_step_3": later,
                "asked_compiled": 0,
                "machine": f"{os.cpu_count()} cores, {platform.machine()}",
                "versions": {name: version(name) for name in ("torch", "torch-xla", "numpy")},
            }
        )
    )


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    if len(sys.argv) > 2:
        print(json.dumps(on_xla(Path(sys.argv[2]), count)))
    else:
        main(count)

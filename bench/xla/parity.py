"""The trainer on XLA against the CPU trainer: the same recipes, the same rows, the loss after 50 steps.

    .venv-xla/bin/python bench/xla/parity.py [steps]        # after make setup-xla

clip, mofi and git as the mini-world's recipes have them (float32, batches of 32, no dropout) with a small vision
transformer, mug and simclr with their own, on one of XLA's CPU devices and on a mesh of four, each in a process of its
own, against the CPU trainer of the same torch on one thread. Held-out rows are measured, samples decoded and
checkpoints written every third step. Asked: losses equal within 1e-3 relative, and no program compiled after step 3.
Seconds a step on XLA's CPU device say nothing of a TPU.

Batch statistics make rounding differences grow: with the recipes' own ResNet, two threads of the CPU trainer come as
far from one as XLA does. Both are reported, for clip and mofi.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from train.conftest import make_tower  # noqa: E402
from train.runs import Told, prepared, small  # noqa: E402  (the tests' store, all of whose labels are right)
from train.training_store import Store, make_store  # noqa: E402
from xla.settings import settings  # noqa: E402

from raylab.train.plan import CheckpointConfig, ParallelConfig, TrackConfig, TrainConfig  # noqa: E402
from raylab.train.worker import read_here, work  # noqa: E402

TOWERS = ("clip", "mofi", "git")
TASKS = (*TOWERS, "mug", "simclr")
RESNET = ("clip", "mofi")
WARM = 3


def config_of(task: str, store: Store, out: Path, steps: int, *, accelerator: str, tower: str) -> TrainConfig:
    """Return a mini-world recipe, as it is but for rows, batch and tower; without a tower, its own."""
    config: Any = small(f"{task}_miniworld", store, out, steps=steps, batch=32, accelerator=accelerator)
    if tower and task in TOWERS:
        config = replace(config, task=replace(config.task, encoder=replace(config.task.encoder, name=tower)))
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


def on_xla(folder: Path, steps: int, tower: str, tasks: Sequence[str]) -> dict[str, Any]:
    """Train on this process's devices."""
    from raylab.train.accelerators.xla import compiled

    found = {}
    for task in tasks:
        out = Path(tempfile.mkdtemp(dir=folder))
        points = train(config_of(task, _store(folder), out, steps, accelerator="xla", tower=tower))
        found[task] = {
            "loss": points[steps]["loss"],
            "programs": points[WARM + 1]["programs"],
            "compiled_later": compiled() - points[WARM + 1]["programs"],
            "first_step_s": round(points[1]["step_s"], 2),
            "step_s": _middle(points),
        }
    return found


def on_cpu(folder: Path, steps: int, tower: str, tasks: Sequence[str], threads: int = 1) -> dict[str, Any]:
    """Train by the CPU trainer."""
    found = {}
    for task in tasks:
        out = Path(tempfile.mkdtemp(dir=folder))
        config = config_of(task, _store(folder), out, steps, accelerator="cpu", tower=tower)
        points = train(replace(config, parallel=ParallelConfig(threads=threads)))
        found[task] = {"loss": points[steps]["loss"], "step_s": _middle(points)}
    return found


def _middle(points: dict[int, dict[str, float]]) -> float:
    return round(sorted(point["step_s"] for point in points.values())[len(points) // 2], 3)


def _store(folder: Path) -> Store:
    return Store(str(folder / "labels"), str(folder / "kb"), str(folder / "pairs.parquet"))


def _child(devices: int, folder: Path, steps: int, tower: str, tasks: Sequence[str]) -> dict[str, Any]:
    command = [sys.executable, __file__, str(steps), str(folder), tower, *tasks]
    done = subprocess.run(command, env=os.environ | settings(devices), stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def apart(found: dict[str, Any], expected: dict[str, Any]) -> dict[str, float]:
    """Return each task's relative difference of losses."""
    return {task: abs(one["loss"] / expected[task]["loss"] - 1) for task, one in found.items()}


def with_batch_statistics(folder: Path, steps: int) -> dict[str, Any]:
    """Return how far XLA, and two threads of the CPU, are from one thread of the CPU with the recipes' own ResNet."""
    expected = on_cpu(folder, steps, "", RESNET)
    found = {"1 devices": _child(1, folder, steps, "", RESNET), "cpu, 2 threads": on_cpu(folder, steps, "", RESNET, 2)}
    return {where: apart(one, expected) for where, one in found.items()}


def main(steps: int) -> None:
    """Compare, and print the result as JSON."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_store(folder, rows=800)
        tower = str(make_tower(folder))
        expected = on_cpu(folder, steps, tower, TASKS)
        found = {f"{devices} devices": _child(devices, folder, steps, tower, TASKS) for devices in (1, 4)}
        differences = {where: apart(one, expected) for where, one in found.items()}
        result = {
            "steps": steps,
            "cpu": expected,
            "xla": found,
            "relative_difference": differences,
            "worst": max(max(one.values()) for one in differences.values()),
            "asked": 1e-3,
            "compiled_after_step_3": sum(one[task]["compiled_later"] for one in found.values() for task in TASKS),
            "asked_compiled": 0,
            "with_batch_statistics": with_batch_statistics(folder, steps),
            "machine": f"{os.cpu_count()} cores, {platform.machine()}",
            "versions": {name: version(name) for name in ("torch", "torch-xla", "numpy")},
        }
    print(json.dumps(result))


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    if len(sys.argv) > 2:
        print(json.dumps(on_xla(Path(sys.argv[2]), count, sys.argv[3], sys.argv[4:])))
    else:
        main(count)

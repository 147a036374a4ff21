"""The trainer on XLA against the CPU trainer: the same recipes, the same rows, the loss after 50 steps.

    .venv-xla/bin/python bench/xla/parity.py [steps] [tasks]        # after make setup-xla; without tasks: all

clip, mofi and git as the mini-world's recipes have them (float32, batches of 32, no dropout) with a small vision
transformer, mug, simclr and both stages of devise with their own; dpc and upernet (segmentation) on pictures of 64
pixels, batches of 16. On one of XLA's CPU devices and on a mesh of four, each in a process of its own, against the CPU
trainer of the same torch on one thread. Held-out rows are measured, samples decoded and checkpoints written every third
step. Asked: losses equal within 1e-3 relative, and no program compiled after step 3.
Seconds a step on XLA's CPU device say nothing of a TPU.

Batch statistics make rounding differences grow: with the recipes' own ResNet, two threads of the CPU trainer come as
far from one as XLA does. Both are reported, for clip and mofi; for dpc and upernet, which have batch statistics, two
threads are reported beside XLA.
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

from raylab.dense.fit import fit  # noqa: E402
from raylab.dense.plan import SegmentationConfig  # noqa: E402
from raylab.recipes.segmentation import SEGMENTATION  # noqa: E402
from raylab.tasks.segmentation import CellTask  # noqa: E402
from raylab.train.plan import CheckpointConfig, ParallelConfig, TrackConfig, TrainConfig  # noqa: E402
from raylab.train.worker import read_here, work  # noqa: E402

TOWERS = ("clip", "mofi", "git")
DENSE = ("dpc", "upernet")
TASKS = (*TOWERS, "mug", "simclr", "devise", "devise_tuned", *DENSE)
RESNET = ("clip", "mofi")
WARM, CHILD = 3, "child"


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


def dense_config_of(task: str, out: Path, steps: int, *, accelerator: str, threads: int) -> SegmentationConfig:
    """Return a mini-world recipe of segmentation, on small pictures, without dropout."""
    config = SEGMENTATION[f"{task}_miniworld"]()
    if isinstance(config.task, CellTask):
        config = replace(config, task=replace(config.task, head=replace(config.task.head, dropout=0.0)))
    return replace(
        config,
        out=str(out),
        train=config.train.replace("rows=2000", "rows=200"),
        val=config.val.replace("rows=200", "rows=20"),
        steps=steps,
        accelerator=accelerator,
        threads=threads,
        pixels=replace(config.pixels, side=64, crop=64),
        checkpoint=CheckpointConfig(every=WARM, keep=1),
        track=TrackConfig(every=1, evaluate_every=WARM, project=""),
    )


Points = dict[int, dict[str, float]]


def train(task: str, folder: Path, steps: int, *, accelerator: str, tower: str, threads: int = 1) -> Points:
    """Train in this process; return the points. DeViSE's second stage begins with the CPU trainer's first one."""
    out = Path(tempfile.mkdtemp(dir=folder))
    if task in DENSE:
        fit(dense_config_of(task, out, steps, accelerator=accelerator, threads=threads))
        lines = [json.loads(line) for line in (out / "curves.jsonl").read_text().splitlines()]
        return {int(line["step"]): line for line in lines}
    config = config_of(task, _store(folder), out, steps, accelerator=accelerator, tower=tower)
    if task == "devise_tuned":
        config = replace(config, init=_first_stage(folder, steps))
    told = Told(lambda step, point: None)
    work(prepared(replace(config, parallel=ParallelConfig(threads=threads))), read_here, told)
    return told.points


def _first_stage(folder: Path, steps: int) -> str:
    out = folder / "first_stage"
    if not out.exists():
        config = config_of("devise", _store(folder), out, steps, accelerator="cpu", tower="")
        work(prepared(config), read_here, Told(lambda step, point: None))
    return str(out)


def on_xla(folder: Path, steps: int, tower: str, tasks: Sequence[str]) -> dict[str, Any]:
    """Train on this process's devices."""
    from raylab.train.accelerators.xla import compiled

    found = {}
    for task in tasks:
        points = train(task, folder, steps, accelerator="xla", tower=tower)
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
        points = train(task, folder, steps, accelerator="cpu", tower=tower, threads=threads)
        found[task] = {"loss": points[steps]["loss"], "step_s": _middle(points)}
    return found


def _middle(points: dict[int, dict[str, float]]) -> float:
    return round(sorted(point["step_s"] for point in points.values())[len(points) // 2], 3)


def _store(folder: Path) -> Store:
    return Store(str(folder / "labels"), str(folder / "kb"), str(folder / "pairs.parquet"))


def _child(devices: int, folder: Path, steps: int, tower: str, tasks: Sequence[str]) -> dict[str, Any]:
    command = [sys.executable, __file__, CHILD, str(steps), str(folder), tower, *tasks]
    done = subprocess.run(command, env=os.environ | settings(devices), stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def apart(found: dict[str, Any], expected: dict[str, Any]) -> dict[str, float]:
    """Return each task's relative difference of losses."""
    return {task: abs(one["loss"] / expected[task]["loss"] - 1) for task, one in found.items()}


def with_batch_statistics(folder: Path, steps: int, tasks: Sequence[str], known: dict[str, Any]) -> dict[str, Any]:
    """Return how far XLA, and two threads of the CPU, are from one: with the recipes' own ResNet, and segmentation.

    Args:
        folder: of the store.
        steps: of a run.
        tasks: those of `RESNET` and `DENSE` are looked at.
        known: of the CPU trainer on one thread, for segmentation.
    """
    dense, resnet = ([task for task in tasks if task in kind] for kind in (DENSE, RESNET))
    expected = known | on_cpu(folder, steps, "", resnet)
    two = apart(on_cpu(folder, steps, "", [*resnet, *dense], 2), expected)
    return {"1 devices": apart(_child(1, folder, steps, "", resnet), expected) if resnet else {}, "cpu, 2 threads": two}


def main(steps: int, tasks: Sequence[str]) -> None:
    """Compare, and print the result as JSON."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_store(folder, rows=800)
        tower = str(make_tower(folder))
        expected = on_cpu(folder, steps, tower, tasks)
        found = {f"{devices} devices": _child(devices, folder, steps, tower, tasks) for devices in (1, 4)}
        differences = {where: apart(one, expected) for where, one in found.items()}
        result = {
            "steps": steps,
            "cpu": expected,
            "xla": found,
            "relative_difference": differences,
            "worst": max(max(one.values()) for one in differences.values()),
            "asked": 1e-3,
            "compiled_after_step_3": sum(one[task]["compiled_later"] for one in found.values() for task in tasks),
            "asked_compiled": 0,
            "with_batch_statistics": with_batch_statistics(folder, steps, tasks, expected),
            "machine": f"{os.cpu_count()} cores, {platform.machine()}",
            "versions": {name: version(name) for name in ("torch", "torch-xla", "numpy")},
        }
    print(json.dumps(result))


if __name__ == "__main__":
    if sys.argv[1:2] == [CHILD]:
        print(json.dumps(on_xla(Path(sys.argv[3]), int(sys.argv[2]), sys.argv[4], sys.argv[5:])))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 50, sys.argv[2:] or TASKS)

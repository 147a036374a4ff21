"""Small runs on either trainer, and what became of them."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from train.runs import Told, small, train
from train.training_store import Store
from xla.settings import settings

from raylab.models.git_module import GitShape
from raylab.train.loop import Curve
from raylab.train.plan import CheckpointConfig, ParallelConfig, TrackConfig, TrainConfig
from raylab.train.worker import Run, read_here, work

STEPS, WARM = 7, 3
"""Steps of a run, and those after which nothing may be compiled: all that a run does was done once by then."""


def config_of(recipe: str, store: Store, tower: Path, out: Path, **parallel: Any) -> TrainConfig:
    """A run on a tower without batch statistics that saves, measures held-out rows and shows samples at `WARM`."""
    config = small(recipe, store, out, steps=STEPS, checkpoint=CheckpointConfig(every=WARM))
    task: Any = replace(config.task, encoder=replace(config.task.encoder, name=str(tower)))  # type: ignore[attr-defined,type-var]
    if recipe.startswith("git"):
        task = replace(task, shape=GitShape(width=64, layers=2, heads=2, dropout=0.0, context=12, target=8))
    return replace(
        config,
        task=task,
        accelerator="cpu",
        data=replace(config.data, held_out=0.2),
        track=TrackConfig(every=1, evaluate_every=WARM, samples=4, project=""),
        parallel=ParallelConfig(threads=1, **parallel),
    )


@dataclass
class Outcome:
    """What a run on XLA told."""

    points: dict[int, Curve]
    programs: int
    """Compiled by its end, since the process began."""
    said: list[str]
    """Of pictures that are held out."""
    fell_back: list[str]
    """Operations that XLA does not have."""

    def after_warm_up(self) -> float:
        """Return how many programs were compiled after step `WARM`."""
        return self.programs - self.points[WARM + 1]["programs"]


def on_xla(run: Run, on_point: Callable[[int, Curve], None] = lambda step, point: None) -> Outcome:
    """Train in this process."""
    from torch_xla.debug import metrics

    from raylab.train.accelerators.xla import compiled

    told = Told(on_point)
    config = replace(run.config, accelerator="xla")
    work(replace(run, config=config), read_here, told)
    fell_back = [name for name in metrics.executed_fallback_ops() if "_local_scalar_dense" not in name]
    return Outcome(told.points, compiled(), [text for _, text in told.pictures], fell_back)


def on_one_device(runs: dict[str, Run], folder: Path) -> dict[str, Outcome]:
    """Train in a process that sees one device."""
    import os

    asked, found = folder / "asked.pickle", folder / "found.json"
    asked.write_bytes(pickle.dumps(runs))
    command = [sys.executable, "-m", "xla.one_device", str(asked), str(found)]
    environment = os.environ | settings(devices=1) | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return {
        name: Outcome(**(one | {"points": {int(step): point for step, point in one["points"].items()}}))
        for name, one in json.loads(found.read_text()).items()
    }


def cpu_points(run: Run) -> dict[int, Curve]:
    """Train by the CPU trainer, in a folder beside."""
    return train(replace(run.config, out=f"{run.config.out}-cpu"))


def losses(points: dict[int, Curve]) -> dict[int, float]:
    return {step: point["loss"] for step, point in points.items()}

"""Small sweeps, and training runs that wait at each look as those under Ray do, in this process."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from train.runs import prepared, small
from train.training_store import Store

from raylab.storage import Folder
from raylab.tracking import CURVES
from raylab.train.board import Pace
from raylab.train.export import export
from raylab.train.loop import Curve
from raylab.train.plan import TrackConfig, TrainConfig
from raylab.train.run import SUMMARY
from raylab.train.worker import Halted, read_here, work
from raylab.tune.plan import ScheduleConfig, Sweep, SweepConfig


def sweep(
    store: Store, out: Path, recipe: str = "mofi_miniworld", space: dict[str, str] | None = None, **config: Any
) -> Sweep:
    """Return a sweep of runs of 6 steps that are looked at three times."""
    train = small(recipe, store, out, track=TrackConfig(every=1, project="", samples=0))
    train = replace(train, data=replace(train.data, held_out=0.2))
    settings: dict[str, Any] = {"samples": 2, "schedule": ScheduleConfig(looks=3)}
    if "validate" not in config:
        settings["objective"] = ("held_out/text_top1",)
    settings |= config
    return Sweep.make(train, SweepConfig(**settings), {"": "none"} | (space or {}))


def train_here(config: TrainConfig, pace: Pace) -> dict[str, Any]:
    """Be `raylab.train.run.run` without Ray: the real worker and loop, in this thread."""
    out = Folder(config.out)
    if out.exists(SUMMARY):
        return out.read_json(SUMMARY)
    run = prepared(config)
    try:
        work(run, read_here, Waiting(config, pace))
    except Halted:
        return {}
    export(run)
    out.write_json(SUMMARY, {"steps": config.steps})
    return {}


class Waiting:
    """A `worker.Told` that keeps the curves in the run's folder, and asks at each look."""

    def __init__(self, config: TrainConfig, pace: Pace) -> None:
        self.config, self.pace, self.out = config, pace, Folder(config.out)
        self.points: dict[int, Curve] = {}
        if self.out.exists(CURVES):
            lines = [json.loads(line) for line in self.out.read_bytes(CURVES).splitlines()]
            self.points = {line.pop("step"): line for line in lines}

    def say(self, line: str) -> None:
        """No matter."""

    def point(self, step: int, point: Curve) -> bool:
        """Keep the curves."""
        self.points[step] = point
        self._write()
        return False

    def saved(self, step: int) -> None:
        """Ask whether to go on."""
        word = self.pace.at(step, self.points[step])
        self.points[step] |= word.more
        self._write()
        if not word.goes:
            raise Halted

    def samples(self, pictures: list[tuple[np.ndarray, str]]) -> None:
        """Look away."""

    def _write(self) -> None:
        lines = [json.dumps({"step": step, **point}) for step, point in sorted(self.points.items())]
        self.out.write_bytes(CURVES, "\n".join(lines).encode())

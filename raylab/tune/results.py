"""What became of a sweep's trials, as their own folders tell: the same after a kill, and without Ray.

trials/<id>/trial.json    what a trial is: when it was begun, and the values drawn for it
trials/<id>/end.json      how it ended, where it did: finished, stopped (others did better) or failed, and why
trials/<id>/curves.jsonl  the training run's curves; points that were looked at have the objectives
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raylab.storage import Folder

TRIALS = "trials"
TRIAL = "trial.json"
END = "end.json"
CURVES = "curves.jsonl"

Point = dict[str, float]
"""Of a trial's curves: name -> value, with ``step``."""


@dataclass(frozen=True)
class Objective:
    """A number that is to be as high, or as low, as can be."""

    name: str
    """Of the curves, such as ``validation/entity_HM``."""
    mode: str = "max"
    """``max`` or ``min``."""

    def better(self, one: float, other: float) -> bool:
        """Tell whether the first value beats the second."""
        return one > other if self.mode == "max" else one < other


@dataclass(frozen=True)
class TrialResult:
    """One trial."""

    id: str
    """Its folder's name."""
    number: int
    """In the order in which trials were begun."""
    values: Mapping[str, Any]
    """Field -> the value drawn for it."""
    status: str
    """``finished``, ``stopped``, ``failed``, or ``unfinished``: killed, and to be gone on with."""
    error: str
    """Why it failed; empty otherwise."""
    points: Sequence[Point]
    """Of its curves, those that were looked at, in the order of their steps."""
    out: str
    """Its folder's address."""

    @property
    def step(self) -> int:
        """The last step that was looked at, 0 before the first."""
        return int(self.points[-1]["step"]) if self.points else 0

    def value(self, objective: Objective) -> float:
        """Return the objective at the last step that was looked at; nan where there is none."""
        return float(self.points[-1].get(objective.name, math.nan)) if self.points else math.nan


def read_trials(out: Folder, objective: Objective) -> list[TrialResult]:
    """Return a sweep's trials in the order in which they were begun.

    Args:
        out: the sweep's folder.
        objective: points that have it count as looked at.
    """
    names = [name for name in out.names(TRIALS) if out.exists(f"{name}/{TRIAL}")]
    begun = sorted((out.read_json(f"{name}/{TRIAL}")["begun"], name) for name in names)
    return [_read(Folder(f"{out.uri}/{name}"), number, objective) for number, (_, name) in enumerate(begun)]


def _read(folder: Folder, number: int, objective: Objective) -> TrialResult:
    end = folder.read_json(END) if folder.exists(END) else {"status": "unfinished"}
    return TrialResult(
        id=folder.uri.rpartition("/")[2],
        number=number,
        values=folder.read_json(TRIAL)["values"],
        status=end["status"],
        error=end.get("error", ""),
        points=looked_at(folder, objective),
        out=folder.uri,
    )


def looked_at(run: Folder, objective: Objective) -> list[Point]:
    """Return the points of a run's curves that have the objective."""
    if not run.exists(CURVES):
        return []
    points = [json.loads(line) for line in run.read_bytes(CURVES).splitlines()]
    return [point for point in points if objective.name in point]


def best_trial(trials: Sequence[TrialResult], objective: Objective) -> TrialResult | None:
    """Return the finished trial with the best last value, None where no trial finished with one."""
    best: TrialResult | None = None
    for trial in trials:
        value = trial.value(objective)
        if trial.status != "finished" or math.isnan(value):
            continue
        if best is None or objective.better(value, best.value(objective)):
            best = trial
    return best

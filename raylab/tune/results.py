"""What became of a sweep's trials, as their own folders tell: the same after a kill, and without Ray.

trials/<id>/trial.json   the values drawn for it
trials/<id>/looks.jsonl  the points of its curves at which it was looked at, with what its validation found
trials/<id>/end.json     how it ended, where it did: finished, stopped (others did better) or failed, and why
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from raylab.storage import Folder
from raylab.train.examples import POINTER

SWEEP = "sweep.json"
"""In a sweep's folder: recipe, settings and space."""
SUMMARY = "summary.json"
BEST = "best.json"
"""In a sweep's folder: a recipe that ``jobs/train.py --recipe FILE`` takes."""
TRIALS_FILE = "trials.json"
"""In a sweep's folder: every trial with its values, how it ended, and its looks."""
REPORT = "sweep.html"
TRIALS = "trials"
TRIAL = "trial.json"
END = "end.json"
LOOKS = "looks.jsonl"
CHECKPOINTS = POINTER.partition("/")[0]
FIRST = "00000"
"""The folder's name of the first trial."""
READERS = 16
"""Trials that are read at a time."""

Point = dict[str, float]
"""Of a trial's curves: name -> value, with ``step``."""


@dataclass(frozen=True)
class Objective:
    """A number that is to be as high, or as low, as can be."""

    name: str
    """Of the curves, such as ``held_out/entity_exact``."""
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
    """In the order in which trials were drawn."""
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


def read_trials(out: Folder) -> list[TrialResult]:
    """Return the trials of a sweep's folder in the order in which they were drawn."""
    names = [name for name in out.names(TRIALS) if out.exists(f"{name}/{TRIAL}")]
    with ThreadPoolExecutor(READERS) as readers:  # a bucket takes its time for each
        return list(readers.map(_read, [Folder(f"{out.uri}/{name}") for name in names], range(len(names))))


def _read(folder: Folder, number: int) -> TrialResult:
    end = folder.read_json(END) if folder.exists(END) else {"status": "unfinished"}
    return TrialResult(
        id=folder.uri.rpartition("/")[2],
        number=number,
        values=folder.read_json(TRIAL)["values"],
        status=end["status"],
        error=end.get("error", ""),
        points=read_looks(folder),
        out=folder.uri,
    )


def note(trial: Folder, values: Mapping[str, Any]) -> None:
    """Write down what was drawn for a trial, unless that stands there."""
    if not trial.exists(TRIAL):
        trial.write_json(TRIAL, {"values": dict(values)})


def generations(out: Folder, trial: str) -> list[str]:
    """Return the names of a trial's folders, oldest first: one more each time that it took another one's weights."""
    names = [name.rpartition("/")[2] for name in out.names(TRIALS)]
    return sorted((name for name in names if trial_of(name) == trial), key=generation)


def trial_of(name: str) -> str:
    """Return which trial a folder of this name belongs to."""
    return name.partition(".")[0]


def generation(name: str) -> int:
    """Return how often a trial had gone on from another one's weights when it got the folder of this name."""
    return int(name.partition(".")[2] or 0)


def read_looks(trial: Folder) -> list[Point]:
    """Return a trial's looks so far."""
    return [json.loads(line) for line in trial.read_bytes(LOOKS).splitlines()] if trial.exists(LOOKS) else []


def trials_begun(out: Folder) -> int:
    """Return how many trials a sweep's folder has; one that went on from another one's weights counts once."""
    return len({trial_of(name.rpartition("/")[2]) for name in out.names(TRIALS)})


def remove_checkpoints(trials: Sequence[TrialResult], objectives: Sequence[Objective]) -> None:
    """Remove the checkpoints of trials at their end: all but those of the best one by each objective.

    Such a trial tells its looks again without them, and a finished one has its model.
    """
    best = {found.id for one in objectives if (found := best_trial(trials, one))}
    for trial in trials:
        if trial.status != "unfinished" and trial.id not in best:
            Folder(trial.out).remove(CHECKPOINTS)


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

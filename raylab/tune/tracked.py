"""What W&B is told of a sweep as a whole, in a run of its own beside its trials': table, best recipe, plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raylab.storage import Folder
from raylab.tracking import TrackingConfig, open_run
from raylab.tune.plan import Sweep
from raylab.tune.report import ranked
from raylab.tune.results import BEST, REPORT, SWEEP, TRIALS_FILE, TrialResult

ATTACHED = (SWEEP, BEST, TRIALS_FILE, REPORT)
"""Files of the sweep that W&B keeps, too."""
JOB_TYPE = "tune"
FIGURES = ("trials", "finished", "stopped", "failed", "unfinished", "steps", "best", "cut_after_hours")
"""Of the sweep's summary, those that stand for the whole run, where they are there."""


def track(sweep: Sweep, out: Folder, trials: Sequence[TrialResult], summary: Mapping[str, Any]) -> None:
    """Tell W&B of a sweep; one that went on is the same run.

    Args:
        sweep: the sweep.
        out: its folder, with `ATTACHED` in it.
        trials: all of them.
        summary: see `finish`.
    """
    settings = sweep.train.track
    tracking = TrackingConfig(settings.project, settings.group or sweep.name)
    names = [one.name for one in sweep.objectives]
    with open_run(out, tracking, out.read_json(SWEEP), JOB_TYPE) as run:
        columns = ["trial", "status", "step", *names, *sweep.space, "error"]
        run.add_table("trials", columns, [_row(trial, sweep) for trial in ranked(trials, sweep.objectives)])
        run.summarise({name: summary[name] for name in FIGURES if name in summary})
        run.summarise({f"best/{name}": value for name, value in summary["objective"].items()})
        run.summarise({f"best/{field}": value for field, value in summary["values"].items()})
        run.attach(ATTACHED)


def _row(trial: TrialResult, sweep: Sweep) -> list[Any]:
    values = [trial.value(one) for one in sweep.objectives]
    return [trial.id, trial.status, trial.step, *values, *map(trial.values.get, sweep.space), trial.error]

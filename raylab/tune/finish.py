"""What a sweep ends with: a table, the best recipe as a file, plots."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from typing import Any

from raylab.config import to_dict
from raylab.storage import Folder
from raylab.tune.fidelity import of_looks
from raylab.tune.plan import Sweep
from raylab.tune.results import TrialResult, best_trial, read_trials

logger = logging.getLogger(__name__)

SUMMARY = "summary.json"
BEST = "best.json"
"""In a sweep's folder: a recipe that ``jobs/train.py --recipe FILE`` takes."""
TRIALS_FILE = "trials.json"
"""In a sweep's folder: every trial with its values, how it ended, and its looks."""


def finish(sweep: Sweep, out: Folder) -> dict[str, Any]:
    """Write table, best recipe and plots; return the summary."""
    from raylab.tune.report import table, write_report

    objectives = sweep.objectives
    trials = read_trials(out, objectives[0])
    out.write_json(TRIALS_FILE, [_plain(trial) for trial in trials])
    best = best_trial(trials, objectives[0])
    if best:
        out.write_json(BEST, recipe(sweep, best))
    write_report(out, trials, objectives, sweep.space)
    logger.info("\n%s", table(trials, objectives))
    summary = _summarise(sweep, out, trials, best) | _dashboard(sweep, out)
    out.write_json(SUMMARY, summary)
    return summary


def _dashboard(sweep: Sweep, out: Folder) -> dict[str, str]:
    """Save W&B's workspace of the sweep's group, where its runs are online."""
    track = sweep.train.track
    if not track.project:
        return {}
    from raylab.tune.dashboard import build, save

    group = track.group or sweep.name
    address = save(build(track.project, group, sweep.objectives, sweep.space))
    return {"dashboard": address} if address else {}


def recipe(sweep: Sweep, trial: TrialResult) -> dict[str, Any]:
    """Return a trial's config as a recipe: all but where it wrote, and how often it was looked at."""
    config = sweep.trial(trial.values, "")
    config = replace(config, checkpoint=sweep.train.checkpoint, track=sweep.train.track, out="")
    return to_dict(config)


def _plain(trial: TrialResult) -> dict[str, Any]:
    return {
        "id": trial.id,
        "values": dict(trial.values),
        "status": trial.status,
        "error": trial.error,
        "looks": list(trial.points),
    }


def _summarise(sweep: Sweep, out: Folder, trials: list[TrialResult], best: TrialResult | None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "recipe": sweep.train.recipe,
        "trials": len(trials),
        **Counter(trial.status for trial in trials),
        "steps": sum(trial.step for trial in trials),
        "out": out.uri,
        "report": f"{out.uri}/sweep.html",
        "fidelity": of_looks(trials, sweep.objectives[0]),
    }
    if best:
        found |= {
            "best": best.id,
            "values": dict(best.values),
            "objective": {one.name: best.value(one) for one in sweep.objectives},
            "best_recipe": f"{out.uri}/{BEST}",
        }
    return found

"""What a sweep ends with: a table, the best recipe as a file, plots."""

from __future__ import annotations

import logging
import os
from collections import Counter
from dataclasses import replace
from typing import Any

from raylab.config import to_dict
from raylab.errors import Interrupted, RaylabError
from raylab.storage import Folder
from raylab.tune.fidelity import of_looks
from raylab.tune.plan import Sweep
from raylab.tune.results import TrialResult, best_trial, generation, read_trials, trial_of

logger = logging.getLogger(__name__)

SUMMARY = "summary.json"
BEST = "best.json"
"""In a sweep's folder: a recipe that ``jobs/train.py --recipe FILE`` takes."""
TRIALS_FILE = "trials.json"
"""In a sweep's folder: every trial with its values, how it ended, and its looks."""


def finish(sweep: Sweep, out: Folder) -> dict[str, Any]:
    """Write table, best recipe and plots; return the summary, which is written where all trials are at their end.

    Raises:
        Interrupted: some are not.
        RaylabError: none finished.
    """
    from raylab.tune.report import table, write_report

    objectives = sweep.objectives
    trials = read_trials(out)
    out.write_json(TRIALS_FILE, [_plain(trial) for trial in trials])
    write_report(out, trials, objectives, sweep.space)
    logger.info("\n%s", table(trials, objectives))
    _check_ended(sweep, out, trials)
    best = best_trial(trials, objectives[0])
    if best is None:
        reasons = Counter(trial.error for trial in trials if trial.error).most_common(1)
        why = f" Most often: {reasons[0][0]}" if reasons else ""
        raise RaylabError(f"No trial of {out.uri} came to its end with {objectives[0].name}.{why}")
    out.write_json(BEST, recipe(sweep, best))
    summary = _summarise(sweep, out, trials, best) | _dashboard(sweep)
    out.write_json(SUMMARY, summary)
    return summary


def _check_ended(sweep: Sweep, out: Folder, trials: list[TrialResult]) -> None:
    last = {trial_of(trial.id): trial for trial in sorted(trials, key=lambda trial: generation(trial.id))}
    ended = sum(trial.status != "unfinished" for trial in last.values())
    if ended < sweep.trials:
        raise Interrupted(
            f"{sweep.trials - ended} of {sweep.trials} trials of {out.uri} are not at their end; what befell them "
            "stands above. The same line goes on."
        )


def _dashboard(sweep: Sweep) -> dict[str, str]:
    """Save W&B's workspace of the sweep's group, where its runs are online; W&B's own agents have theirs."""
    track = sweep.train.track
    if not track.project or "WANDB_SWEEP_ID" in os.environ:
        return {}
    from raylab.tune.dashboard import publish

    address = publish(track.project, track.group or sweep.name, sweep.objectives, sweep.space)
    return {"dashboard": address} if address else {}


def recipe(sweep: Sweep, trial: TrialResult) -> dict[str, Any]:
    """Return a trial's config as a recipe: all but where it wrote, and how often it was looked at.

    Its passes a step are those that it ended with.
    """
    config = sweep.trial(trial.values, "")
    config = replace(config, checkpoint=sweep.train.checkpoint, track=sweep.train.track, out="")
    return to_dict(config) | {"parallel": Folder(trial.out).read_json("config.json")["parallel"]}


def _plain(trial: TrialResult) -> dict[str, Any]:
    return {
        "id": trial.id,
        "values": dict(trial.values),
        "status": trial.status,
        "error": trial.error,
        "looks": list(trial.points),
    }


def _summarise(sweep: Sweep, out: Folder, trials: list[TrialResult], best: TrialResult) -> dict[str, Any]:
    return {
        "recipe": sweep.train.recipe,
        "trials": len(trials),
        **Counter(trial.status for trial in trials),
        "steps": sum(trial.step for trial in trials),
        "out": out.uri,
        "report": f"{out.uri}/sweep.html",
        "fidelity": {str(step): rho for step, rho in of_looks(trials, sweep.objectives[0]).items()},
        "best": best.id,
        "values": dict(best.values),
        "objective": {one.name: best.value(one) for one in sweep.objectives},
        "best_recipe": f"{out.uri}/{BEST}",
    }

"""What a sweep ends with: a table, the best recipe as a file, plots. And what there is of these while it runs."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from raylab.config import to_dict
from raylab.errors import Interrupted, RaylabError
from raylab.storage import Folder
from raylab.tune.fidelity import of_looks
from raylab.tune.plan import Sweep
from raylab.tune.results import (
    BEST,
    REPORT,
    SUMMARY,
    TRIALS_FILE,
    TrialResult,
    best_trial,
    generation,
    read_trials,
    remove_checkpoints,
    trial_of,
)

logger = logging.getLogger(__name__)


def write_interim(sweep: Sweep, out: Folder) -> None:
    """Write what is known of a sweep while it runs; checkpoints that nobody needs any more go."""
    trials = read_trials(out)
    ended = sweep.trials - unfinished(sweep, trials)
    note = (
        f"While the sweep runs, as of {time.strftime('%Y-%m-%d %H:%M')}: {ended} of {sweep.trials} trials at their end."
    )
    _write(sweep, out, trials, note)
    if sweep.config.schedule.scheduler != "pbt":  # others may go on from any of a population's
        _tidy(sweep, trials)


def _write(sweep: Sweep, out: Folder, trials: Sequence[TrialResult], note: str = "") -> TrialResult | None:
    """Write trials, plots and the best recipe; return the best trial."""
    from raylab.tune.report import write_report

    out.write_json(TRIALS_FILE, [_plain(trial) for trial in trials])
    write_report(out, trials, sweep.objectives, sweep.space, note)
    best = best_trial(trials, sweep.objectives[0])
    if best is not None:
        out.write_json(BEST, recipe(sweep, best))
    return best


def _tidy(sweep: Sweep, trials: Sequence[TrialResult]) -> None:
    if sweep.config.keep_checkpoints == "best":
        remove_checkpoints(trials, sweep.objectives)


def finish(sweep: Sweep, out: Folder, cut: bool = False) -> dict[str, Any]:
    """Write table, best recipe and plots; return the summary, which is written, too.

    Args:
        sweep: the sweep.
        out: its folder.
        cut: its hours were over before all trials were at their end.

    Raises:
        Interrupted: some are not at their end, and nobody cut them; or none finished in the hours that there were.
        RaylabError: none finished.
    """
    from raylab.tune.report import table

    trials = read_trials(out)
    left = unfinished(sweep, trials)
    note = _cut_note(sweep, left) if cut and left else ""
    best = _write(sweep, out, trials, note)
    logger.info("\n%s", table(trials, sweep.objectives))
    if left and not cut:
        raise Interrupted(
            f"{left} of {sweep.trials} trials of {out.uri} are not at their end; what befell them stands above. The "
            f"same line goes on.{f' Until then {BEST} is trial {best.id}.' if best else ''}"
        )
    if best is None:
        raise _nothing(sweep, out, trials, note)
    if note:
        logger.warning(note)
    else:
        _tidy(sweep, trials)
    summary = _summarise(sweep, out, trials, best) | _dashboard(sweep)
    if note:
        summary |= {"cut_after_hours": sweep.config.hours, "unfinished": left}
    _track(sweep, out, trials, summary)
    out.write_json(SUMMARY, summary)
    return summary


def is_whole(sweep: Sweep, summary: dict[str, Any]) -> bool:
    """Tell whether a sweep that ended with this summary has nothing left to do."""
    return summary.get("asked") == sweep.trials and "cut_after_hours" not in summary


def unfinished(sweep: Sweep, trials: Sequence[TrialResult]) -> int:
    """Return how many trials are not at their end, those among them that were not begun."""
    last = {trial_of(trial.id): trial for trial in sorted(trials, key=lambda trial: generation(trial.id))}
    return sweep.trials - sum(trial.status != "unfinished" for trial in last.values())


def _cut_note(sweep: Sweep, left: int) -> str:
    hours = f"{sweep.config.hours:g} hour{'' if sweep.config.hours == 1 else 's'}"
    return (
        f"Cut after {hours} (--hours): {left} of {sweep.trials} trials are not at their end. The same line goes on "
        "with them."
    )


def _nothing(sweep: Sweep, out: Folder, trials: Sequence[TrialResult], note: str) -> RaylabError:
    if note:
        return Interrupted(f"{note} None finished before, so there is no best one yet.")
    reasons = Counter(trial.error for trial in trials if trial.error).most_common(1)
    why = f" Most often: {reasons[0][0]}" if reasons else ""
    return RaylabError(f"No trial of {out.uri} came to its end with {sweep.objectives[0].name}.{why}")


def _has_agents() -> bool:
    """Tell whether W&B's own agent runs this job as one of its trials: its sweep has a page of its own."""
    return "WANDB_SWEEP_ID" in os.environ


def _track(sweep: Sweep, out: Folder, trials: Sequence[TrialResult], summary: dict[str, Any]) -> None:
    if sweep.train.track.project and not _has_agents():
        from raylab.tune.tracked import track

        track(sweep, out, trials, summary)


def _dashboard(sweep: Sweep) -> dict[str, str]:
    """Save W&B's workspace of the sweep's group, where its runs are online."""
    track = sweep.train.track
    if not track.project or _has_agents():
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


def _summarise(sweep: Sweep, out: Folder, trials: Sequence[TrialResult], best: TrialResult) -> dict[str, Any]:
    return {
        "recipe": sweep.train.recipe,
        "asked": sweep.trials,
        "trials": len(trials),
        **Counter(trial.status for trial in trials),
        "steps": sum(trial.step for trial in trials),
        "out": out.uri,
        "report": f"{out.uri}/{REPORT}",
        "fidelity": {str(step): rho for step, rho in of_looks(trials, sweep.objectives[0]).items()},
        "best": best.id,
        "values": dict(best.values),
        "objective": {one.name: best.value(one) for one in sweep.objectives},
        "best_recipe": f"{out.uri}/{BEST}",
    }

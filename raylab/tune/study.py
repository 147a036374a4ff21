"""A sweep's trials as an Optuna study: what its plots and importances are made from."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from raylab.tune.results import Objective, TrialResult
from raylab.tune.spaces import LISTED, Domain

if TYPE_CHECKING:
    import optuna

_LOGARITHMIC = ("loguniform", "lograndint", "powers_of_two")
_WHOLE = ("randint", "lograndint", "powers_of_two")

Plain = None | bool | int | float | str


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Optuna from telling that a study was made, and that names of objectives are new in it."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


def make_study(
    trials: Sequence[TrialResult], objectives: Sequence[Objective], space: Mapping[str, Domain]
) -> optuna.Study:
    """Return the study; its trial numbers are places in `trials`.

    A stopped trial counts with its last values, as a finished one does: Optuna's plots leave pruned ones out. A trial
    that has no values (it failed, or nobody looked at it) is there without them. Of one objective, its values at all
    steps are there, too.

    Args:
        trials: of a sweep.
        objectives: one or more.
        space: the fields that are parameters.
    """
    import optuna

    ways = {"max": optuna.study.StudyDirection.MAXIMIZE, "min": optuna.study.StudyDirection.MINIMIZE}
    directions = [ways[one.mode] for one in objectives]
    known = {field: _distribution(domain, trials, field) for field, domain in space.items()}
    with quiet():
        study = optuna.create_study(directions=directions)
        study.set_metric_names([one.name for one in objectives])
        for trial in trials:
            study.add_trial(_frozen(trial, objectives, known))
    return study


def _frozen(trial: TrialResult, objectives: Sequence[Objective], known: Mapping[str, Any]) -> optuna.trial.FrozenTrial:
    import optuna

    values = [trial.value(one) for one in objectives]
    state = _state(trial, values)
    fields = [field for field in known if field in trial.values]
    return optuna.trial.create_trial(
        state=state,
        values=values if state == optuna.trial.TrialState.COMPLETE else None,
        params={field: _plain(trial.values[field]) for field in fields},
        distributions={field: known[field] for field in fields},
        intermediate_values=curve(trial, objectives[0]) if len(objectives) == 1 else None,
    )


def _state(trial: TrialResult, values: Sequence[float]) -> optuna.trial.TrialState:
    from optuna.trial import TrialState

    if trial.status == "unfinished":
        return TrialState.RUNNING
    if trial.status == "failed" or not all(map(math.isfinite, values)):
        return TrialState.FAIL
    return TrialState.COMPLETE


def curve(trial: TrialResult, objective: Objective) -> dict[int, float]:
    """Return the objective at each step at which it is known and finite."""
    found = ((int(point["step"]), point.get(objective.name, math.nan)) for point in trial.points)
    return {step: value for step, value in found if math.isfinite(value)}


def _distribution(domain: Domain, trials: Sequence[TrialResult], field: str) -> Any:
    """Return a domain as Optuna has it, wide enough for all that was drawn: population based training leaves bounds."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    seen = [_plain(trial.values[field]) for trial in trials if field in trial.values]
    if domain.kind in LISTED or not all(_is_number(value) for value in seen):
        return CategoricalDistribution(list(dict.fromkeys([*map(_plain, domain.args), *seen])))
    numbers = [value for value in (*domain.edges, *seen) if isinstance(value, (int, float))]
    low, high = min(numbers), max(numbers)
    log = domain.kind in _LOGARITHMIC and low > 0
    if domain.kind in _WHOLE and all(isinstance(value, int) for value in numbers):
        return IntDistribution(int(low), int(high), log=log)
    return FloatDistribution(low, high, log=log)


def _is_number(value: Plain) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _plain(value: Any) -> Plain:
    """Return a value as Optuna takes it: lists and such become their JSON text."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return json.dumps(value, default=str)

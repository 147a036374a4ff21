"""A sweep on Ray Tune: draws values, runs each trial as a training run under Ray Train, ends the worse ones early."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.search import BasicVariantGenerator, ConcurrencyLimiter, SearchAlgorithm, Searcher

from raylab.ceiling import can_grow, resource
from raylab.config import check_same, to_dict
from raylab.errors import Interrupted, RaylabError
from raylab.kb.catalog import Catalog
from raylab.session import READ_CPUS, plain_errors, session
from raylab.storage import Folder
from raylab.train import run as training
from raylab.train.accelerators.run import chips_of_worker
from raylab.train.plan import TrainConfig
from raylab.tune.finish import SUMMARY, finish
from raylab.tune.plan import Sweep, check
from raylab.tune.results import END, TRIAL, TRIALS, Objective, generation, generations, note, read_trials, trial_of
from raylab.tune.spaces import Domain, shares_survey, within
from raylab.tune.trial import SHARED, Trial, branch

logger = logging.getLogger(__name__)

SWEEP = "sweep.json"
"""In a sweep's folder: recipe, settings and space."""
TUNE = "tune"
"""In a sweep's folder: what Ray Tune writes; a sweep that goes on does not need it."""
FREE = ("concurrent", "retries")
"""Settings that may differ when a sweep goes on."""
TRIAL_CPUS = 0.01
"""A trial's own process waits, or validates while its training waits."""
SETTINGS = {
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # what Tune knows of a sweep is made again from its trials' folders
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",  # its banner would stand where our last line is to be alone
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial that failed has no metric
}
"""Ray Tune's own."""


def run(sweep: Sweep) -> dict[str, Any]:
    """Sweep, or go on with what an earlier call with the same line began.

    A sweep that goes on draws the same values again, in the same order, and each trial tells its looks again from its
    folder: so schedulers and samplers know what they knew, whatever became of the driver.

    Returns:
        The summary, as it lies in `finish.SUMMARY`.

    Raises:
        RaylabError: anything that the user can put right; what was done stays. Trials that fail do not end a sweep.
        Interrupted: of these, trials that are not at their end: the same line goes on.
    """
    sweep = sweep.absolute()
    check(sweep)
    out = Folder(sweep.train.out)
    _begin(sweep, out)
    if out.exists(SUMMARY):
        return out.read_json(SUMMARY)  # there is nothing left to do
    train = sweep.train
    cpus = READ_CPUS + (sweep.config.concurrent or _fit_here(train)) * _needs(sweep)["CPU"]
    places = train.places() | sweep.config.validate.places()
    connected = session(cpus, worker_logs=False, places=places, shared_disk=train.shared_disk)
    with connected, plain_errors(), _settings(sweep.config.search.seed):
        training.check_gpus(train)
        at_once = concurrent(sweep)
        check_population(sweep, at_once)
        if shares_survey(sweep.space):
            _survey_once(sweep, out)
        _fit(_tuner(sweep, out, at_once))
    return finish(sweep, out)


def _fit(tuner: tune.Tuner) -> None:
    try:
        tuner.fit()
    except tune.TuneError as error:
        raise Interrupted(f"Ray Tune gave up: {' '.join(str(error).split())[-500:]}. The same line goes on.") from error


def _begin(sweep: Sweep, out: Folder) -> None:
    """Write the sweep's settings, or refuse to go on with another one's sweep."""
    now = to_dict(sweep.train) | {
        "sweep": {name: value for name, value in to_dict(sweep.config).items() if name not in FREE},
        "space": {field: str(domain) for field, domain in sweep.space.items()},
    }
    if out.exists(SWEEP):
        check_same(out.read_json(SWEEP), now, f"{out.uri} holds a sweep with other settings")
    out.write_json(SWEEP, now)


def _fit_here(train: TrainConfig) -> int:
    """Return how many trials share a machine of our own."""
    return max(1, int((os.cpu_count() or 1) // (train.parallel.workers * train.parallel.cpus)))


def _needs(sweep: Sweep) -> dict[str, float]:
    """Return what a trial takes of a cluster: its workers, what reads for them, its own process."""
    parallel = sweep.train.parallel
    return {
        "CPU": TRIAL_CPUS + READ_CPUS + parallel.workers * parallel.cpus,
        "GPU": sweep.config.validate_gpus + parallel.workers * training.gpus_of_worker(sweep.train),
        "TPU": parallel.workers * chips_of_worker(sweep.train),
    }


def concurrent(sweep: Sweep) -> int:
    """Return how many trials the cluster has room for: more would take each other's place, and none might get its own.

    Raises:
        RaylabError: there is no room for one, and there never will be.
    """
    room, needs = math.inf, {name: needed for name, needed in _needs(sweep).items() if needed}
    for name, needed in needs.items():
        has = resource(name)
        if has < needed and not can_grow():
            raise RaylabError(
                f"A trial needs {needed:g} {name}s and this cluster has {has:g}: take fewer --parallel.workers, "
                "less --parallel.cpus or --parallel.gpus, or a larger cluster."
            )
        room = min(room, has // needed)
    if math.isinf(room):  # it can grow, and nobody can tell how far: as many as there is room for now
        now = ray.cluster_resources()
        room = min(now.get(name, 0.0) // needed for name, needed in needs.items())
    return max(1, int(min(room, sweep.config.concurrent or room)))


def check_population(sweep: Sweep, at_once: int) -> None:
    """Raise `RaylabError` where a population would not live at the same time: its worse half is told by comparing."""
    if sweep.config.schedule.scheduler == "pbt" and sweep.trials > at_once:
        raise RaylabError(
            f"--schedule.scheduler pbt compares trials that run at a time: --samples {sweep.config.samples}, and there "
            f"is room for {at_once}. Take fewer samples, less --parallel.cpus, or a larger cluster."
        )


@contextlib.contextmanager
def _settings(seed: int) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in SETTINGS}
    os.environ.update(SETTINGS)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    random.seed(seed)  # population based training draws from there
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _survey_once(sweep: Sweep, out: Folder) -> None:
    shared = Folder(f"{out.uri}/{SHARED}")
    if not shared.exists(training.EXAMPLES):
        train = sweep.train
        training.survey(train, shared, Folder(train.labels), Catalog.open(train.kb))


def _tuner(sweep: Sweep, out: Folder, at_once: int) -> tune.Tuner:
    trainable = tune.with_resources(
        tune.with_parameters(TrialActor, sweep=sweep),
        {"cpu": TRIAL_CPUS, "gpu": sweep.config.validate_gpus},
    )
    logger.info("%d trials, %d at a time", sweep.trials, at_once)
    out.remove(TUNE)  # of an earlier start
    name = numbered(out)
    return tune.Tuner(
        trainable,
        param_space=param_space(sweep),
        tune_config=tune.TuneConfig(
            num_samples=sweep.draws,
            search_alg=searcher(sweep, out, at_once),
            scheduler=_scheduler(sweep),
            trial_dirname_creator=name,
            trial_name_creator=name,
        ),
        run_config=tune.RunConfig(
            name=TUNE,
            storage_path=out.uri if "://" in out.uri else out.path("").rstrip("/"),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=sweep.config.retries),
            callbacks=[Progress(out, sweep.objectives)],
        ),
    )


def numbered(out: Folder) -> Callable[[Any], str]:
    """Return what names trials by their number as they are drawn, the same ones each time that a sweep is begun.

    The values are written down there and then, in their order: whenever the driver is killed, none is missing between
    others, and a sampler that is given them goes on with the next.
    """
    names: dict[str, str] = {}

    def name(trial: Any) -> str:
        if trial.trial_id not in names:
            names[trial.trial_id] = f"{len(names):05d}"
            note(Folder(f"{out.uri}/{TRIALS}/{names[trial.trial_id]}"), trial.config)
        return names[trial.trial_id]

    return name


def param_space(sweep: Sweep) -> dict[str, Any]:
    """Return the space as Ray Tune takes it."""
    return {field: _domain(domain) for field, domain in sweep.space.items()}


def searcher(sweep: Sweep, out: Folder, at_once: int) -> SearchAlgorithm | Searcher:
    """Return what draws the values: first, those that an earlier start of the sweep drew.

    Args:
        sweep: the sweep.
        out: its folder.
        at_once: trials at a time.
    """
    search, objectives = sweep.config.search, sweep.objectives
    if search.algorithm == "random":
        return BasicVariantGenerator(max_concurrent=at_once, random_state=search.seed, constant_grid_search=True)
    from ray.tune.search.optuna import OptunaSearch

    several = len(objectives) > 1
    drawn = [dict(trial.values) for trial in read_trials(out)]
    optuna = OptunaSearch(
        metric=[one.name for one in objectives] if several else objectives[0].name,
        mode=[one.mode for one in objectives] if several else objectives[0].mode,
        seed=search.seed,
        points_to_evaluate=drawn or None,
    )
    return ConcurrencyLimiter(optuna, max_concurrent=at_once)


def _scheduler(sweep: Sweep) -> TrialScheduler:
    schedule, first = sweep.config.schedule, sweep.objectives[0]
    by: dict[str, Any] = {"time_attr": "step", "metric": first.name, "mode": first.mode}
    if schedule.scheduler == "none":
        return FIFOScheduler()
    grace = schedule.grace * sweep.every
    if schedule.scheduler == "asha":
        return ASHAScheduler(**by, max_t=sweep.train.steps, grace_period=grace, reduction_factor=schedule.keep)
    return PopulationBasedTraining(
        **by,
        perturbation_interval=grace,
        hyperparam_mutations={field: _mutations(domain) for field, domain in sweep.space.items()},
        custom_explore_fn=partial(within, sweep.space),
    )


def _domain(domain: Domain) -> Any:
    if domain.kind in ("powers_of_two", "choice"):
        return tune.choice(list(domain.values))
    if domain.kind == "grid_search":
        return tune.grid_search(list(domain.values))
    return getattr(tune, domain.kind)(*domain.args)


def _mutations(domain: Domain) -> Any:
    """Return what a value of a population moves by: to a neighbour in a list, by a fifth of it otherwise."""
    return list(domain.values) if domain.kind in ("powers_of_two", "choice") else _domain(domain)


class TrialActor(tune.Trainable):
    """A `Trial` as Ray Tune calls it: a step is the way to the next look."""

    def setup(self, config: dict[str, Any], sweep: Sweep) -> None:  # type: ignore[override]
        """See ray.tune.Trainable."""
        logging.getLogger("raylab").setLevel(logging.INFO)
        self._sweep, self._values = sweep, config
        self._root = Folder(sweep.train.out)
        self._name = (generations(self._root, self.trial_name) or [self.trial_name])[-1]
        self._trial: Trial | None = None
        self._done = 0

    def _opened(self) -> Trial:
        if self._trial is None:
            self._trial = Trial(self._sweep, self._name, self._values, training.run)
            self._trial.go_on_after(self._done)
        return self._trial

    def step(self) -> dict[str, Any]:
        """See ray.tune.Trainable. A trial that failed for good is done; its folder says why."""
        try:
            point, last = self._opened().look()
        except Interrupted:
            raise
        except RaylabError:
            return {"step": self._done, "done": True}
        self._done = int(point["step"])
        return {**point, "step": self._done, "done": last}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """Return where the run's own checkpoint is."""
        return {"trial": self._name, "step": self._done}

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """Go on after a look of this trial, or from the weights of another one."""
        if not checkpoint:
            return
        self._done, donor = checkpoint["step"], checkpoint["trial"]
        if trial_of(donor) == self.trial_name:
            self._name = donor
            return
        before = generations(self._root, self.trial_name)
        if before and not self._root.exists(place := f"{TRIALS}/{before[-1]}/{END}"):
            self._root.write_json(place, {"status": "stopped"})
        self._name = f"{self.trial_name}.{generation(before[-1]) + 1 if before else 1}"
        branch(self._root, donor, self._done, self._name, self._values)

    def cleanup(self) -> None:
        """See ray.tune.Trainable."""
        if self._trial is not None:
            self._trial.stop()


class Progress(tune.Callback):
    """Tells people how trials go, and writes down which of them were stopped."""

    def __init__(self, out: Folder, objectives: list[Objective]) -> None:
        self._out, self._objectives = out, objectives
        self._begun: set[str] = set()
        self._ended = 0

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """See ray.tune.Callback."""
        name = str(trial)
        if name not in self._begun:
            self._begun.add(name)
            trial.config.update(self._values(name))  # a population's, where it went on with others than were drawn
        values = ", ".join(f"{field} {_short(value)}" for field, value in trial.config.items())
        logger.info("trial %s: %s", name, values or "the recipe as it is")

    def _values(self, name: str) -> dict[str, Any]:
        before = generations(self._out, name)
        return self._out.read_json(f"{TRIALS}/{before[-1]}/{TRIAL}")["values"] if before else {}

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        """See ray.tune.Callback."""
        values = ", ".join(f"{one.name} {_short(result.get(one.name))}" for one in self._objectives)
        logger.info("trial %s: step %d  %s", trial, result["step"], values)

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """See ray.tune.Callback."""
        self._ended += 1
        folder = f"{TRIALS}/{generations(self._out, str(trial))[-1]}"
        if not self._out.exists(f"{folder}/{END}"):
            self._out.write_json(f"{folder}/{END}", {"status": "stopped"})
        end = self._out.read_json(f"{folder}/{END}")
        how = {"stopped": "ended early: others do better", "failed": f"failed: {end.get('error')}"}
        logger.info("trial %s %s (%d ended)", trial, how.get(end["status"], end["status"]), self._ended)

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """See ray.tune.Callback."""
        logger.warning("trial %s died: %s", trial, " ".join(str(trial.get_error()).split())[-500:])


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)

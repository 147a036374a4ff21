"""A sweep on Ray Tune: draws values, runs each trial as a training run under Ray Train, ends the worse ones early."""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.search import BasicVariantGenerator, ConcurrencyLimiter, SearchAlgorithm, Searcher

from raylab.ceiling import can_grow, resource
from raylab.config import differences, to_dict
from raylab.errors import RaylabError
from raylab.kb.catalog import Catalog
from raylab.session import READ_CPUS, plain_errors, session
from raylab.storage import Folder
from raylab.train import run as training
from raylab.train.accelerators.run import chips_of_worker
from raylab.train.plan import TrainConfig
from raylab.tune.finish import SUMMARY, finish
from raylab.tune.plan import Sweep, check
from raylab.tune.results import END, TRIALS, Objective
from raylab.tune.spaces import Domain, shares_survey
from raylab.tune.trial import SHARED, Trial, branch

logger = logging.getLogger(__name__)

SWEEP = "sweep.json"
"""In a sweep's folder: recipe, settings and space."""
TUNE = "tune"
"""In a sweep's folder: what Ray Tune keeps."""
FREE = ("concurrent", "retries")
"""Settings that may differ when a sweep goes on."""
TRIAL_CPUS = 0.01
"""A trial's own process waits, or validates while its training waits."""
SETTINGS = {"TUNE_GLOBAL_CHECKPOINT_S": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1"}
"""Ray Tune's: its state is written at each event, so that a kill loses none; no loggers beside ours."""


def run(sweep: Sweep) -> dict[str, Any]:
    """Sweep, or go on with what an earlier call with the same line began.

    Returns:
        The summary, as it lies in `finish.SUMMARY`.

    Raises:
        RaylabError: anything that the user can put right; what was done stays. Trials that fail do not end a sweep.
    """
    train = training.absolute(sweep.train)
    sweep = replace(sweep, train=train)
    check(sweep)
    out = Folder(train.out)
    _begin(sweep, out)
    if out.exists(SUMMARY):
        return out.read_json(SUMMARY)  # there is nothing left to do
    cpus = READ_CPUS + (sweep.config.concurrent or _fit_here(train)) * _needs(sweep)["CPU"]
    places = train.places() | sweep.config.validate.places()
    connected = session(cpus, worker_logs=False, places=places, shared_disk=train.shared_disk)
    with connected, plain_errors(), _settings():
        training.check_gpus(train)
        if shares_survey(sweep.space):
            _survey_once(sweep, out)
        tuner = _tuner(sweep, out, sweep.config.concurrent or concurrent(sweep))
        tuner.fit()
    return finish(sweep, out)


def _begin(sweep: Sweep, out: Folder) -> None:
    """Write the sweep's settings, or refuse to go on with another one's sweep."""
    now = to_dict(sweep.train) | {
        "sweep": {name: value for name, value in to_dict(sweep.config).items() if name not in FREE},
        "space": {field: str(domain) for field, domain in sweep.space.items()},
    }
    if out.exists(SWEEP) and (differing := differences(out.read_json(SWEEP), now)):
        lines = "\n  ".join(differing[:10])
        raise RaylabError(
            f"{out.uri} holds a sweep with other settings:\n  {lines}\n"
            "Take another --out, or the settings that it began with."
        )
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
    room, needs = math.inf, _needs(sweep)
    for name, needed in needs.items():
        if needed:
            has = resource(name)
            if has < needed and not can_grow():
                raise RaylabError(
                    f"A trial needs {needed:g} {name}s and this cluster has {has:g}: take fewer --parallel.workers, "
                    "less --parallel.cpus or --parallel.gpus, or a larger cluster."
                )
            room = min(room, has // needed)
    if math.isinf(room):  # it can grow, and nobody can tell how far: as many as there is room for now
        has_now = ray.cluster_resources()
        room = min(has_now.get(name, 0.0) // needed for name, needed in needs.items() if needed)
    return max(1, int(room))


@contextlib.contextmanager
def _settings() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in SETTINGS}
    os.environ.update(SETTINGS)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
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
    storage = out.uri if "://" in out.uri else out.path("")
    folder = f"{storage.rstrip('/')}/{TUNE}"
    if tune.Tuner.can_restore(folder):
        return tune.Tuner.restore(folder, trainable, param_space=_param_space(sweep), resume_unfinished=True)
    logger.info("%d trials at a time", at_once)
    return tune.Tuner(
        trainable,
        param_space=_param_space(sweep),
        tune_config=tune.TuneConfig(
            num_samples=_samples(sweep),
            search_alg=_searcher(sweep, at_once),
            scheduler=_scheduler(sweep),
            trial_dirname_creator=_trial_name,
            trial_name_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name=TUNE,
            storage_path=storage,
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=sweep.config.retries),
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1),
            callbacks=[Told(out, sweep.objectives)],
        ),
    )


def _trial_name(trial: Any) -> str:
    return trial.trial_id


def _samples(sweep: Sweep) -> int:
    grids = [domain.kind == "grid_search" for domain in sweep.space.values()]
    return 1 if grids and all(grids) else sweep.config.samples


def _searcher(sweep: Sweep, at_once: int) -> SearchAlgorithm | Searcher:
    search, objectives = sweep.config.search, sweep.objectives
    if search.algorithm == "random":
        return BasicVariantGenerator(max_concurrent=at_once, random_state=search.seed, constant_grid_search=True)
    from ray.tune.search.optuna import OptunaSearch

    several = len(objectives) > 1
    optuna = OptunaSearch(
        metric=[one.name for one in objectives] if several else objectives[0].name,
        mode=[one.mode for one in objectives] if several else objectives[0].mode,
        seed=search.seed,
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
        hyperparam_mutations={field: _domain(domain) for field, domain in sweep.space.items()},
    )


def _param_space(sweep: Sweep) -> dict[str, Any]:
    return {field: _domain(domain) for field, domain in sweep.space.items()}


def _domain(domain: Domain) -> Any:
    if domain.kind in ("powers_of_two", "choice"):
        return tune.choice(list(domain.values))
    if domain.kind == "grid_search":
        return tune.grid_search(list(domain.values))
    return getattr(tune, domain.kind)(*domain.args)


class TrialActor(tune.Trainable):
    """A `Trial` as Ray Tune calls it: a step is the way to the next look."""

    def setup(self, config: dict[str, Any], sweep: Sweep) -> None:  # type: ignore[override]
        """See ray.tune.Trainable."""
        logging.getLogger("raylab").setLevel(logging.INFO)
        self._sweep, self._values = sweep, config
        self._root = Folder(sweep.train.out)
        self._name = self._latest()
        self._trial: Trial | None = None
        self._done = 0

    def _generations(self) -> list[str]:
        """Return the names of this trial's folders: it gets a new one where it goes on from another's weights."""
        names = [name.rpartition("/")[2] for name in self._root.names(TRIALS)]
        return sorted((name for name in names if name.partition(".")[0] == self.trial_id), key=_generation)

    def _latest(self) -> str:
        return (self._generations() or [self.trial_id])[-1]

    def _opened(self) -> Trial:
        if self._trial is None:
            self._trial = Trial(self._sweep, self._name, self._values, training.run)
            self._trial.go_on_after(self._done)
        return self._trial

    def step(self) -> dict[str, Any]:
        """See ray.tune.Trainable."""
        point, last = self._opened().look()
        self._done = int(point["step"])
        return {**point, "step": self._done, "done": last}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """Return where the run's own checkpoint is."""
        return {"trial": self._name, "step": self._done}

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """Go on after a look of this trial, or from the weights of another one."""
        if not checkpoint:
            return
        self._done = checkpoint["step"]
        if checkpoint["trial"].partition(".")[0] != self.trial_id:
            before = self._generations()
            if before and not self._root.exists(place := f"{TRIALS}/{before[-1]}/{END}"):
                self._root.write_json(place, {"status": "stopped"})
            self._name = f"{self.trial_id}.{_generation(before[-1]) + 1 if before else 0}"
            branch(self._root, checkpoint["trial"], self._done, self._name)
        else:
            self._name = checkpoint["trial"]

    def cleanup(self) -> None:
        """See ray.tune.Trainable."""
        if self._trial is not None:
            self._trial.stop()


def _generation(name: str) -> int:
    return int(name.partition(".")[2] or 0)


class Told(tune.Callback):
    """Tells people how trials go, and writes down how each of them ended."""

    def __init__(self, out: Folder, objectives: list[Objective]) -> None:
        self._out, self._objectives = out, objectives

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """See ray.tune.Callback."""
        values = ", ".join(f"{field} {_short(value)}" for field, value in trial.config.items())
        logger.info("trial %s: %s", trial.trial_id, values or "the recipe as it is")

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        """See ray.tune.Callback."""
        values = ", ".join(f"{one.name} {_short(result.get(one.name))}" for one in self._objectives)
        logger.info("trial %s: step %d  %s", trial.trial_id, result["step"], values)

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """See ray.tune.Callback."""
        if self._ended(trial.trial_id, {"status": "stopped"})["status"] == "stopped":
            logger.info("trial %s: ended early, others do better", trial.trial_id)

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """See ray.tune.Callback."""
        end = self._ended(trial.trial_id, {"status": "failed", "error": _reason(trial)})
        logger.warning("trial %s failed: %s", trial.trial_id, end.get("error"))

    def _ended(self, trial_id: str, end: Mapping[str, str]) -> dict[str, str]:
        """Note how a trial ended, where it did not do so itself; return how it did."""
        names = [name for name in self._out.names(TRIALS) if name.rpartition("/")[2].partition(".")[0] == trial_id]
        if not names:
            return dict(end)
        place = f"{sorted(names, key=lambda name: _generation(name.rpartition('/')[2]))[-1]}/{END}"
        if not self._out.exists(place):
            self._out.write_json(place, dict(end))
        return self._out.read_json(place)


def _reason(trial: Any) -> str:
    error = trial.get_error()
    return " ".join(str(error).split())[-500:]


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)

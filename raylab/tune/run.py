"""A sweep on Ray Tune: draws values, runs each trial as a training run under Ray Train, ends the worse ones early."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
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
from raylab.session import READ_CPUS, cores, plain_errors, session
from raylab.storage import Folder
from raylab.train import run as training
from raylab.train.accelerators.run import chips_of_worker, slices
from raylab.train.begin import completed
from raylab.train.plan import TrainConfig
from raylab.tune.finish import finish, is_whole, write_interim
from raylab.tune.plan import Sweep, check
from raylab.tune.progress import Progress
from raylab.tune.results import (
    END,
    FIRST,
    SUMMARY,
    SWEEP,
    TRIALS,
    generation,
    generations,
    note,
    read_trials,
    trial_of,
    trials_begun,
)
from raylab.tune.room import Needs, fits, fits_nodes
from raylab.tune.spaces import Domain, shares_survey, within
from raylab.tune.trial import SHARED, Trial, branch

logger = logging.getLogger(__name__)

TUNE = "tune"
"""In a sweep's folder: what Ray Tune writes; a sweep that goes on does not need it."""
FREE = ("samples", "hours", "concurrent", "retries", "keep_checkpoints")
"""Settings that may differ when a sweep goes on; a population has the size that it was begun with."""
SECONDS_AN_HOUR = 3600.0
TRIAL_CPUS = 0.01
"""A trial's own process waits, or validates while its training waits."""
SETTINGS = {
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # what Tune knows of a sweep is made again from its trials' folders
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",  # its banner would stand where our last line is to be alone
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial that failed has no metric
}
"""Ray Tune's own."""
LOW_MEMORY = "running low on memory"
"""In what Ray says of a process that a host's memory monitor killed."""


def run(sweep: Sweep) -> dict[str, Any]:
    """Sweep, or go on with what an earlier call with the same line, or one with fewer samples, began.

    A sweep that goes on draws the same values again, in the same order, and each trial tells its looks again from its
    folder: so schedulers and samplers know what they knew, whatever became of the driver.

    Returns:
        The summary, as it lies in `results.SUMMARY`.

    Raises:
        RaylabError: anything that the user can put right; what was done stays. Trials that fail do not end a sweep.
        Interrupted: of these, trials that are not at their end: the same line goes on. Where the hours of a sweep were
            over, that is told in the summary instead, if a trial finished.
    """
    sweep = replace(sweep, train=completed(sweep.train)).absolute()
    check(sweep)
    out = Folder(sweep.train.out)
    _begin(sweep, out)
    if out.exists(SUMMARY) and is_whole(sweep, before := out.read_json(SUMMARY)):
        return before  # there is nothing left to do
    train = sweep.train
    cpus = READ_CPUS + (sweep.config.concurrent or _fit_here(train)) * _needs(sweep)["CPU"]
    places = train.places() | sweep.config.validate.places()
    connected = session(cpus, worker_logs=False, places=places, shared_disk=train.shared_disk)
    with connected, plain_errors(), settings(sweep.config.search.seed):
        training.check_gpus(train)
        at_once = concurrent(sweep)
        check_population(sweep, at_once)
        if shares_survey(sweep.space):
            _survey_once(sweep, out)
        cut = _fit(sweep, out, at_once)
    return finish(sweep, out, cut)


def _fit(sweep: Sweep, out: Folder, at_once: int) -> bool:
    """Run the trials; tell whether the sweep's hours were over before all were at their end."""
    progress = Progress(sweep, out, partial(write_interim, sweep, out))
    began = time.monotonic()
    try:
        _tuner(sweep, out, at_once, progress).fit()
    except tune.TuneError as error:
        raise Interrupted(f"Ray Tune gave up: {' '.join(str(error).split())[-500:]}. The same line goes on.") from error
    finally:
        progress.close()
    return 0 < sweep.config.hours * SECONDS_AN_HOUR <= time.monotonic() - began


def _begin(sweep: Sweep, out: Folder) -> None:
    """Write the sweep's settings, or refuse to go on with another one's sweep."""
    bound = {"samples"} if sweep.config.schedule.scheduler == "pbt" else set()
    free = set(FREE) - bound
    now = to_dict(sweep.train) | {
        "sweep": {name: value for name, value in to_dict(sweep.config).items() if name not in free},
        "space": {field: str(domain) for field, domain in sweep.space.items()},
    }
    if out.exists(SWEEP):
        check_same(out.read_json(SWEEP), now, f"{out.uri} holds a sweep with other settings")
    if (begun := trials_begun(out)) > sweep.trials:
        raise RaylabError(
            f"{out.uri} has {begun} trials, and --samples {sweep.config.samples} makes {sweep.trials}: give it as many "
            "samples as it had, or more."
        )
    out.write_json(SWEEP, now)


def _fit_here(train: TrainConfig) -> int:
    """Return how many trials share a machine of our own."""
    return max(1, int(cores() // (train.parallel.workers * train.parallel.cpus)))


def _needs(sweep: Sweep) -> Needs:
    """Return what a trial takes of a cluster: its workers, what reads for them, its own process."""
    train = sweep.train
    worker = {"CPU": train.parallel.cpus, "GPU": training.gpus_of_worker(train), "TPU": chips_of_worker(train)}
    own = {"CPU": TRIAL_CPUS + READ_CPUS, "GPU": sweep.config.validate_gpus}
    return Needs(train.parallel.workers, worker, own | slices(train))


def concurrent(sweep: Sweep) -> int:
    """Return how many trials run at a time: as many as the cluster has room for, or as the user says.

    Raises:
        RaylabError: there is no room for one, and there never will be.
    """
    needs = _needs(sweep)
    has = {name: resource(name) for name in needs.names}
    if not can_grow():
        alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        room = min(fits(needs, has), fits_nodes(needs, alive))
    elif math.inf in has.values():  # nobody can tell how far it grows: as many as there is room for now
        now = ray.cluster_resources()
        room = min(int(now.get(name, 0.0) / needs[name]) for name in needs.names)
    else:
        room = min(int(has[name] / needs[name]) for name in needs.names)
    return max(1, min(room, sweep.config.concurrent or room))


def check_population(sweep: Sweep, at_once: int) -> None:
    """Raise `RaylabError` where a population would not live at the same time: its worse half is told by comparing."""
    if sweep.config.schedule.scheduler == "pbt" and sweep.trials > at_once:
        raise RaylabError(
            f"--schedule.scheduler pbt compares trials that run at a time: --samples {sweep.config.samples}, and there "
            f"is room for {at_once}. Take fewer samples, less --parallel.cpus, or a larger cluster."
        )


@contextlib.contextmanager
def settings(seed: int) -> Iterator[None]:
    """Let Ray Tune work as our jobs need it: quiet, and drawing from this seed."""
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


def _tuner(sweep: Sweep, out: Folder, at_once: int, progress: Progress) -> tune.Tuner:
    trainable = tune.with_resources(
        tune.with_parameters(TrialActor, sweep=sweep),
        {"cpu": TRIAL_CPUS, "gpu": sweep.config.validate_gpus},
    )
    logger.info("%d trials, %d at a time", sweep.trials, at_once)
    if sweep.config.defaults_first and sweep.outside:
        logger.info("no trial with the recipe's own values: the space leaves out that of %s", ", ".join(sweep.outside))
    out.remove(TUNE)  # of an earlier start
    name = numbered(out)
    return tune.Tuner(
        trainable,
        param_space=param_space(sweep),
        tune_config=tune.TuneConfig(
            num_samples=sweep.draws,
            search_alg=searcher(sweep, out, at_once),
            scheduler=scheduler(sweep),
            trial_dirname_creator=name,
            trial_name_creator=name,
            time_budget_s=sweep.config.hours * SECONDS_AN_HOUR or None,
        ),
        run_config=tune.RunConfig(
            name=TUNE,
            storage_path=out.uri if "://" in out.uri else out.path("").rstrip("/"),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=sweep.config.retries),
            callbacks=[Told(progress)],
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
    own = [] if sweep.first is None else [sweep.first]
    if search.algorithm == "random":
        return BasicVariantGenerator(own, max_concurrent=at_once, random_state=search.seed, constant_grid_search=True)
    from ray.tune.search.optuna import OptunaSearch

    several = len(objectives) > 1
    drawn = [dict(trial.values) for trial in read_trials(out)]
    optuna = OptunaSearch(
        metric=[one.name for one in objectives] if several else objectives[0].name,
        mode=[one.mode for one in objectives] if several else objectives[0].mode,
        seed=search.seed + len(drawn),  # with the same one, what it drew first would come again
        points_to_evaluate=drawn or own or None,
    )
    return ConcurrencyLimiter(optuna, max_concurrent=at_once)


def scheduler(sweep: Sweep) -> TrialScheduler:
    """Return what ends trials early."""
    schedule, first = sweep.config.schedule, sweep.objectives[0]
    by: dict[str, Any] = {"time_attr": "step", "metric": first.name, "mode": first.mode}
    if schedule.scheduler == "none":
        return FIFOScheduler()
    grace = schedule.grace * sweep.every
    if schedule.scheduler == "asha":
        kind = ASHAScheduler if sweep.first is None else KeepsFirst
        return kind(**by, max_t=sweep.train.steps, grace_period=grace, reduction_factor=schedule.keep)
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


class KeepsFirst(ASHAScheduler):
    """ASHA that lets the first trial, which has the recipe's own values, go to its end."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """See ray.tune.schedulers."""
        decision = super().on_trial_result(tune_controller, trial, result)
        return TrialScheduler.CONTINUE if str(trial) == FIRST else decision


class Told(tune.Callback):
    """Passes on to a `Progress` what Ray Tune tells."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """See ray.tune.Callback."""
        self._progress.begun(str(trial), trial.config)

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        """See ray.tune.Callback."""
        self._progress.looked(str(trial), result)

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """See ray.tune.Callback."""
        self._progress.ended(str(trial))

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """See ray.tune.Callback."""
        last = " ".join(str(trial.get_error()).rpartition("Failure #")[2].split())  # Tune keeps the texts alone
        self._progress.died(str(trial), last[-500:], lacked_memory=LOW_MEMORY in last)

"""A search on Ray: maps by Ray Data, cells by Ray Tune, full training of the best by Ray tasks."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa
import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import ConcurrencyLimiter, Searcher

from raylab.ceiling import resource
from raylab.dense.features import Extractor, FeatureMaps, FeaturePlan
from raylab.dense.finish import Full, finish, of_summary, write_cells
from raylab.dense.plan import CellRun, absolute
from raylab.dense.proxy import OBJECTIVE, SETS, Proxy, feature_plans
from raylab.dense.sampler import Sampler, goes_on
from raylab.dense.search_plan import SearchConfig, check, placed, with_cell
from raylab.dense.trials import (
    Tried,
    begin,
    check_ended,
    folder_of,
    ranked,
    read_tried,
    write_drawn,
    write_end,
    write_look,
)
from raylab.errors import Interrupted, RaylabError
from raylab.models.cell_space import Cell, from_json, to_json
from raylab.session import cores, plain_errors, session
from raylab.storage import Folder
from raylab.train.plan import absolute_path
from raylab.tune.run import TUNE, settings

logger = logging.getLogger(__name__)


def run(config: SearchConfig) -> dict[str, Any]:
    """Search, or go on with what an earlier call with the same line began; more ``--cells`` go on, too.

    Returns:
        The summary, as it lies in `finish.SUMMARY`.

    Raises:
        RaylabError: anything that the user can put right; what was done stays.
        Interrupted: of these, cells that are not at their end: the same line goes on.
    """
    check(config)
    config = replace(config, out=absolute_path(config.out), full=absolute(config.full))
    out = Folder(config.out)
    begin(config, out)
    config = placed(config)
    started = time.perf_counter()
    places = {"--out": config.out, "--full.train": config.full.train, "--full.val": config.full.val}
    places = {flag: place.partition("#")[0] for flag, place in places.items()}
    wanted = (config.concurrent or max(1, int(cores() // config.cpus))) * config.cpus
    connected = session(wanted, config.gpus, worker_logs=False, places=places, shared_disk=config.shared_disk)
    with connected, plain_errors(), settings(config.seed):
        at_once = concurrent(config)
        config = _with_backbone(config, out)
        _compute_maps(config, at_once)
        speed = _try_cells(config, out, at_once)
        tried = read_tried(out)
        check_ended(config, tried, out)
        full = _train_in_full(config, out, ranked(tried)[: config.top])
    return finish(config, out, tried, full, speed | {"seconds": round(time.perf_counter() - started, 1)})


def concurrent(config: SearchConfig) -> int:
    """Return how many cells the cluster has room for at a time.

    Raises:
        RaylabError: there is no room for one.
    """
    room = math.inf
    for name, needed in (("CPU", config.cpus), ("GPU", config.gpus)):
        if needed:
            most = resource(name)
            has = ray.cluster_resources().get(name, 0.0) if math.isinf(most) else most
            if most < needed:
                raise RaylabError(f"A cell needs {needed:g} {name}s (--{name.lower()}s), this cluster has {has:g}.")
            room = min(room, max(1, has // needed))
    return int(min(room, config.concurrent or room))


def _with_backbone(config: SearchConfig, out: Folder) -> SearchConfig:
    """Return the search with an encoder that has weights: where it has none, it is trained with a linear head."""
    encoder = config.full.task.encoder
    if encoder.weights or encoder.pretrained:
        return config
    logger.info("the backbone, %d steps", config.backbone_steps)
    made = with_cell(config, "linear", f"{out.uri}/backbone")
    train = absolute_path(config.backbone_train) or made.train
    made = replace(made, steps=config.backbone_steps, train=train)
    (summary,) = _fit_all(config, [made])
    task = replace(config.full.task, encoder=replace(encoder, weights=summary["model"]))
    return replace(config, full=replace(config.full, task=task))


def _fit_all(config: SearchConfig, runs: Sequence[CellRun]) -> list[dict[str, Any]]:
    """Run full trainings, as many at a time as fit."""
    task: Any = ray.remote(num_cpus=config.cpus, num_gpus=config.gpus, max_retries=config.retries)(_fit)
    return ray.get([task.remote(one) for one in runs])


def _fit(run: CellRun) -> dict[str, Any]:
    from raylab.dense.fit import fit

    logging.getLogger("raylab").setLevel(logging.WARNING)
    return fit(run)


def _compute_maps(config: SearchConfig, at_once: int) -> None:
    """Compute maps that are not there: parts are rows of a Ray Data job, the encoder lies in its actors."""
    from raylab.streams import stream

    plans = {name: plan for name, plan in zip(SETS, feature_plans(config)) if not plan.is_done()}
    missing = [partial(_part, name, part) for name, plan in plans.items() for part in plan.missing()]
    if missing:
        logger.info("maps of %d pictures", sum(len(plan.images) for plan in plans.values()))
        dataset = stream(missing).map_batches(
            _Extract,
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=max(1, min(at_once, len(missing)))),
            num_cpus=config.cpus,
            num_gpus=config.gpus,
            fn_constructor_kwargs={"plans": plans, "threads": config.full.threads, "cuda": config.gpus > 0},
        )
        for _ in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            pass
    for plan in plans.values():
        plan.finish()


def _part(name: str, part: int) -> Iterator[pa.Table]:
    yield pa.table({"set": [name], "part": [part]})


class _Extract:
    """An actor of the job that computes maps. One that cannot be made says so at its first part."""

    def __init__(self, plans: Mapping[str, FeaturePlan], threads: int | None, cuda: bool) -> None:
        import torch

        if threads is not None:
            torch.set_num_threads(threads)
        self._plans = plans
        self._error: RaylabError | None = None
        first = next(iter(plans.values()))
        try:
            self._extract = Extractor(first.encoder, first.seed, "cuda" if cuda else "cpu")
        except RaylabError as error:
            self._error = error

    def __call__(self, batch: pa.Table) -> pa.Table:
        if self._error:
            raise self._error
        for row in batch.to_pylist():
            self._extract(self._plans[row["set"]], row["part"])
        return batch


def _try_cells(config: SearchConfig, out: Folder, at_once: int) -> dict[str, float]:
    """Try the cells that are missing; return how many this start tried an hour."""
    searcher = CellSearcher(config, out)
    if not searcher.missing:
        return {}
    logger.info("%d cells, %d at a time", searcher.missing, at_once)
    out.remove(TUNE)  # of an earlier start
    started = time.perf_counter()
    trainable = tune.with_resources(
        tune.with_parameters(CellTrial, search=config), {"cpu": config.cpus, "gpu": config.gpus}
    )
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            num_samples=searcher.missing,
            metric=OBJECTIVE,
            mode="max",
            search_alg=ConcurrencyLimiter(searcher, max_concurrent=at_once),
            scheduler=Halving(config.proxy.keep, config.proxy.steps, searcher.tried),
            reuse_actors=True,
            trial_dirname_creator=searcher.name,
            trial_name_creator=searcher.name,
        ),
        run_config=tune.RunConfig(
            name=TUNE,
            storage_path=out.path("").rstrip("/"),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=config.retries),
        ),
    )
    try:
        tuner.fit()
    except tune.TuneError as error:
        raise Interrupted(f"Ray Tune gave up: {' '.join(str(error).split())[-500:]}. The same line goes on.") from error
    return {"cells_an_hour": round(3600 * searcher.missing / (time.perf_counter() - started))}


class CellSearcher(Searcher):
    """The sampler as Ray Tune asks it. Cells are written down when they are drawn; one that has no end comes again.

    Args:
        config: the search.
        out: its folder.

    Attributes:
        tried: the cells of earlier starts.
        missing: how many are to be tried.
    """

    def __init__(self, config: SearchConfig, out: Folder) -> None:
        super().__init__(metric=OBJECTIVE, mode="max")
        self._out = out
        self._sampler = Sampler(config.sampler, config.branches, config.seed)
        self.tried = read_tried(out)
        for one in self.tried:
            self._sampler.note(one.cell, one.score if one.is_whole else None)
        self._again = [one for one in self.tried if one.result.status == "unfinished"]
        self._next = len(self.tried)
        self.missing = max(0, config.cells - len(self.tried)) + len(self._again)
        self._cells: dict[str, tuple[int, Cell]] = {}
        self._steps = config.proxy.steps
        self._ended = 0
        self._best = max((one.score for one in self.tried if one.is_whole), default=math.nan)

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """See ray.tune.search.Searcher."""
        if self._again:
            one = self._again.pop(0)
            number, cell = one.number, one.cell
        else:
            number, self._next = self._next, self._next + 1
            cell = self._sampler.draw(number)
            write_drawn(self._out, number, cell)
        self._cells[trial_id] = number, cell
        return {"number": number, "cell": {"branches": to_json(cell)}}

    def name(self, trial: Any) -> str:
        """Return a trial's name: its number."""
        return f"{self._cells[trial.trial_id][0]:05d}"

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Take a cell's end, and tell people."""
        number, cell = self._cells.pop(trial_id)
        folder = folder_of(self._out, number)
        last = result or {}
        score, step = float(last.get(OBJECTIVE, math.nan)), last.get("step")
        write_end(folder, "failed" if error else "stopped", "its process died again and again" if error else "")
        if step == self._steps and math.isfinite(score):
            self._sampler.note(cell, score)
            self._best = score if math.isnan(self._best) else max(self._best, score)
        self._ended += 1
        logger.info("cell %05d: %.4f at step %s (%d ended, best %.4f)", number, score, step, self._ended, self._best)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: what is known lies in the trials' folders."""

    def restore(self, checkpoint_path: str) -> None:
        """See `save`."""


class Halving(FIFOScheduler):
    """Ends cells that do worse than others at the same look (asynchronous successive halving, arXiv 1810.05934).

    Unlike Ray Tune's own it begins with what earlier starts of a search saw.
    """

    def __init__(self, keep: int, steps: int, tried: Sequence[Tried]) -> None:
        super().__init__()
        self._keep, self._steps = keep, steps
        self._seen: dict[int, list[float]] = {}
        for one in tried:
            for point in one.result.points if one.result.status != "unfinished" else ():
                self._seen.setdefault(int(point["step"]), []).append(point.get(OBJECTIVE, math.nan))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """See ray.tune.schedulers.TrialScheduler."""
        step, value = int(result["step"]), float(result.get(OBJECTIVE, math.nan))
        before = list(self._seen.setdefault(step, []))
        self._seen[step].append(value)
        if step == self._steps or goes_on(value, before, self._keep):
            return TrialScheduler.CONTINUE
        return TrialScheduler.STOP


class CellTrial(tune.Trainable):
    """A `Proxy` as Ray Tune calls it: a step is the way to the next look. An actor tries many cells."""

    def setup(self, config: dict[str, Any], search: SearchConfig) -> None:  # type: ignore[override]
        """See ray.tune.Trainable."""
        logging.getLogger("raylab").setLevel(logging.WARNING)
        self._search = search
        self._maps = [FeatureMaps(f"{search.out}/features/{name}") for name in SETS]
        self._take(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """See ray.tune.Trainable."""
        self._take(new_config)
        return True

    def _take(self, config: dict[str, Any]) -> None:
        self._folder = folder_of(Folder(self._search.out), config["number"])
        self._cell = from_json(config["cell"]["branches"], self._folder.uri)
        self._proxy: Proxy | None = None
        self._points: list[dict[str, float]] = []

    def step(self) -> dict[str, Any]:
        """See ray.tune.Trainable. A cell that failed for good is done; its folder says why."""
        try:
            self._proxy = self._proxy or Proxy(self._cell, self._search, *self._maps)
            point, last = self._proxy.look()
        except RaylabError as error:
            write_end(self._folder, "failed", str(error))
            return {"step": self._search.proxy.steps, OBJECTIVE: math.nan, "done": True}
        self._points.append(point)
        write_look(self._folder, self._points)
        if last:
            write_end(self._folder, "finished")
        return {**point, "done": last}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """A cell that is cut off begins anew: it takes seconds to minutes."""
        return {}

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """See `save_checkpoint`."""


def _train_in_full(config: SearchConfig, out: Folder, best: Sequence[Tried]) -> list[Full]:
    """Train the best cells, and those to compare with, to the end of the real task."""
    write_cells(out, best)
    arms: list[tuple[str, str, Tried | None]] = [
        (f"cells/{one.number:05d}", f"{out.path('cells')}/{one.number:05d}.json", one) for one in best
    ]
    arms += [(f"compared/{name.rpartition('/')[2]}", name, None) for name in config.compare]
    if not arms:
        return []
    logger.info("full training of %d cells", len(arms))
    runs = [with_cell(config, cell, f"{out.uri}/full/{place}") for place, cell, _ in arms]
    found = _fit_all(config, runs)
    return [
        of_summary(config, place.rpartition("/")[2], cell, one, summary)
        for (place, cell, one), summary in zip(arms, found)
    ]

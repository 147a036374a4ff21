"""What a sweep is, beside the training recipe that it varies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from raylab.config import check_least
from raylab.errors import RaylabError, nearest
from raylab.evaluate.plan import SUITE, EvaluateConfig
from raylab.evaluate.plan import check as check_evaluation
from raylab.train.plan import TrainConfig, absolute, absolute_path
from raylab.train.plan import check as check_training
from raylab.tune.results import Objective
from raylab.tune.spaces import RULES, Domain, Fit, applied, check_space, own_values, space_of, with_field

ALGORITHMS = ("random", "optuna")
HELD_OUT = {
    "GitTask": "held_out/entity_exact",
    "MofiTask": "held_out/neighbour_top1",
    "ClipTask": "held_out/text_top1",
    "MugTask": "held_out/caption_top1",
    "SimClrTask": "held_out/view_top1",
    "FinetuneTask": "held_out/top1",
    "LinearProbeTask": "held_out/top1",
    "SoftmaxTask": "held_out/top1",
    "DeviseTask": "held_out/top1",
}
"""Task -> what a sweep without validation goes by."""
FIXED = ("recipe", "steps", "out", "accelerator", "shared_disk")
"""Fields that no space may name."""
SCHEDULERS = ("asha", "none", "pbt")
KEPT = ("best", "all")
"""Whose checkpoints are left."""


@dataclass(frozen=True)
class SearchConfig:
    """Where the values come from."""

    algorithm: str = "random"
    """``random``: drawn at random, grids in full; ``optuna``: its TPE sampler; of several objectives their front."""
    seed: int = 0
    """The same seed draws the same values, at random; Optuna's also depend on the order in which trials end."""


@dataclass(frozen=True)
class ScheduleConfig:
    """Which trials go on."""

    scheduler: str = "asha"
    """``asha`` (arXiv 1810.05934): the worse ones end early; ``none``: all to the end; ``pbt`` (arXiv 1711.09846): the
    worse ones go on from the better ones' weights, with their values moved a little."""
    looks: int = 10
    """How often a trial is looked at, in even distances, the last time at its end."""
    grace: int = 1
    """Looks before a trial may be ended (asha), or between two of its moves (pbt)."""
    keep: int = 3
    """Of this many trials at a look, one goes on (asha)."""


@dataclass(frozen=True)
class SweepConfig:
    """A sweep."""

    samples: int = 32
    """Trials; where the space has grids, draws for each of their points. A sweep that goes on may have more."""
    defaults_first: bool = True
    """The first trial has the recipe's own values and is never ended early: the best is not worse than they are. Of
    spaces with grids, which are gone through as they are, there is no such trial."""
    objective: tuple[str, ...] = ()
    """What is to be high, by its name in the curves: the first decides which trials go on and which is best; Optuna
    searches by all. By default the validation's: OVEN's final HM, else what the held-out rows tell."""
    mode: str = "max"
    """``max``, or ``min`` for losses."""
    concurrent: int = 0
    """Trials at a time; 0: as many as fit the cluster."""
    hours: float = 0.0
    """After so many hours the sweep is cut: it ends with what finished, and the same line goes on with the rest. 0: it
    takes what it takes."""
    keep_checkpoints: str = "best"
    """Whose checkpoints are left of trials at their end: the ``best`` one's, or those of ``all``."""
    retries: int = 3
    """How often a trial whose process died is begun again, and how often one that lacks memory gets smaller passes."""
    validate: EvaluateConfig = field(default_factory=lambda: EvaluateConfig(suite="", plots=False))
    """Benchmarks by which a trial is looked at, besides its held-out rows: see jobs/evaluate.py. None by default."""
    validate_gpus: float = 0.0
    """GPUs (or a part of one) that each trial's validation reserves, where `validate.device` is cuda."""
    search: SearchConfig = field(default_factory=SearchConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    fit: Fit = field(default_factory=Fit)


@dataclass(frozen=True)
class Sweep:
    """A whole sweep."""

    train: TrainConfig
    """The recipe; its `out` is the sweep's folder."""
    config: SweepConfig
    space: Mapping[str, Domain]

    @classmethod
    def make(cls, train: TrainConfig, config: SweepConfig, texts: Mapping[str, str]) -> Sweep:
        """Return the sweep of a command line; `texts`: see `spaces.take_space`."""
        return cls(train, config, space_of(train.recipe, texts))

    @property
    def objectives(self) -> list[Objective]:
        """What is to be as good as can be, the one that decides first."""
        return [Objective(name, self.config.mode) for name in self.config.objective or (default_objective(self),)]

    @property
    def every(self) -> int:
        """Steps between two looks."""
        return math.ceil(self.train.steps / self.config.schedule.looks)

    @property
    def trials(self) -> int:
        """How many trials there are."""
        return self.draws * math.prod(len(grid.values) for grid in self._grids)

    @property
    def draws(self) -> int:
        """Trials of each point of the grids: one where there is nothing else to draw."""
        return 1 if self.space and len(self._grids) == len(self.space) else self.config.samples

    @property
    def first(self) -> dict[str, Any] | None:
        """The recipe's own values, where the first trial has them: the space has to hold them, and no grids."""
        if not self.config.defaults_first or not self.space or self._grids or self.outside:
            return None
        return own_values(self.train, self.space)

    @property
    def outside(self) -> list[str]:
        """Fields of whose values none is the recipe's own."""
        own = own_values(self.train, self.space)
        return [field for field, domain in self.space.items() if not domain.holds(own[field])]

    @property
    def _grids(self) -> list[Domain]:
        return [domain for domain in self.space.values() if domain.kind == "grid_search"]

    @property
    def benchmarks(self) -> list[str]:
        """The names of the validation's benchmarks."""
        asked = {name.strip() for name in self.config.validate.suite.split(",")}
        return [name for name in SUITE if name in asked]

    def absolute(self) -> Sweep:
        """Return the sweep with whole paths: its trials have working directories of their own."""
        validate: Any = self.config.validate
        for name in PLACES:
            validate = with_field(validate, name, _absolute(_leaf(validate, name)))
        return replace(self, train=absolute(self.train), config=replace(self.config, validate=validate))

    @property
    def name(self) -> str:
        """The last part of its folder's path: it groups the trials in W&B."""
        return self.train.out.rstrip("/").rpartition("/")[2]

    def trial(self, values: Mapping[str, object], out: str) -> TrainConfig:
        """Return the config of the trial with these values.

        Args:
            values: field -> value.
            out: the trial's folder.
        """
        config = applied(self.train, values, self.config.fit)
        pbt = self.config.schedule.scheduler == "pbt"  # others may go on from any of its checkpoints
        keep = self.config.schedule.looks + 1 if pbt else config.checkpoint.keep
        return replace(
            config,
            out=out,
            checkpoint=replace(config.checkpoint, every=self.every, keep=keep),
            track=replace(config.track, evaluate_every=self.every, group=config.track.group or self.name),
        )

    def validation(self, model: str) -> EvaluateConfig:
        """Return the evaluation of a trial's model."""
        found = self.config.validate
        return replace(found, model=model, kb=found.kb or self.train.kb, out=found.out or model)


PLACES = (
    "data",
    "kb",
    "oven.questions",
    "oven.images",
    "oven.predictions",
    "gpr1200.data",
    "retrieval.data",
    "zero_shot.data",
    "zero_shot.titles",
    "probe.train",
    "probe.test",
    "matching.memory",
    "matching.data",
    "label_quality.labels",
)
"""Fields of a validation that may be paths; several of them joined by commas."""


def _leaf(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part)
    return config


def _absolute(paths: str) -> str:
    """Return whole paths for those that are there; what is no path, such as a built-in list's name, stays."""
    return ",".join(absolute_path(one) if Path(one.partition("#")[0]).exists() else one for one in paths.split(","))


def default_objective(sweep: Sweep) -> str:
    """Return what a sweep goes by where the line names nothing."""
    if "oven" in sweep.benchmarks:
        return "validation/oven/every-question/final/HM"
    if sweep.benchmarks:
        raise RaylabError(
            "--objective is missing: which of the validation's numbers decides, such as "
            "validation/retrieval/leave-one-out/all/mAP."
        )
    kind = type(sweep.train.task).__name__
    if kind not in HELD_OUT:
        raise RaylabError(f"--objective is missing: {sweep.train.recipe} has no number of its own to go by.")
    return HELD_OUT[kind]


def check(sweep: Sweep) -> None:
    """Raise `RaylabError` for what can be told before anything is opened."""
    config = sweep.config
    check_training(sweep.train)
    for flag, value, known in (
        ("search.algorithm", config.search.algorithm, ALGORITHMS),
        ("schedule.scheduler", config.schedule.scheduler, SCHEDULERS),
        ("mode", config.mode, ("max", "min")),
        ("fit.rule", config.fit.rule, tuple(RULES)),
        ("keep-checkpoints", config.keep_checkpoints, KEPT),
    ):
        if value not in known:
            raise RaylabError(f"--{flag} {value!r} is not known: {', '.join(known)}.{nearest(value, known)}")
    _check_numbers(sweep)
    check_space(sweep.train, sweep.space, config.fit)
    _check_space(sweep)
    _check_looks(sweep)


def _check_numbers(sweep: Sweep) -> None:
    config, schedule = sweep.config, sweep.config.schedule
    check_least(
        {
            "samples": (config.samples, 1),
            "concurrent": (config.concurrent, 0),
            "hours": (config.hours, 0),
            "retries": (config.retries, 0),
            "schedule.looks": (schedule.looks, 1),
            "schedule.grace": (schedule.grace, 1),
            "schedule.keep": (schedule.keep, 2),
            "fit.most-rows": (config.fit.most_rows, 0),
        }
    )
    if sweep.train.steps < schedule.looks:
        raise RaylabError(f"--schedule.looks {schedule.looks} of {sweep.train.steps} steps: more looks than steps.")


def _check_space(sweep: Sweep) -> None:
    config, space = sweep.config, sweep.space
    for name in space:
        if name in FIXED or name.startswith(("parallel.", "checkpoint.", "track.")):
            raise RaylabError(f"--space.{name}: all trials of a sweep have the same.")
    grids = [name for name, domain in space.items() if domain.kind == "grid_search"]
    if grids and (config.search.algorithm != "random" or config.schedule.scheduler == "pbt"):
        raise RaylabError(f"--space.{grids[0]} is a grid, which only --search.algorithm random knows: take choice().")
    pbt = config.schedule.scheduler == "pbt"
    if pbt and (not space or config.samples < 2):
        raise RaylabError("--schedule.scheduler pbt moves values of several trials: it wants a space and --samples 2.")
    if config.search.algorithm == "optuna" and (pbt or not space):
        raise RaylabError("--search.algorithm optuna draws values: it wants a space, and no pbt, which moves them.")
    if len(config.objective) > 1 and config.search.algorithm != "optuna":
        raise RaylabError("--objective: only --search.algorithm optuna searches by more than one.")


def _check_looks(sweep: Sweep) -> None:
    """Refuse an evaluation that cannot run, and an objective that nothing will give."""
    validate, gpus = sweep.config.validate, sweep.config.validate_gpus
    asked = sweep.benchmarks
    if validate.suite:
        check_evaluation(sweep.validation("model"))
        if validate.workers:
            raise RaylabError("--validate.workers: a trial validates in its own process; leave it 0.")
        if "oven" in asked and not validate.oven.questions:
            raise RaylabError("--validate.oven.questions is missing: OVEN's .jsonl files, or miniworld://.")
    if gpus < 0 or bool(gpus) != validate.device.startswith("cuda"):
        raise RaylabError("--validate-gpus says how much of a GPU --validate.device cuda has: give both, or neither.")
    for objective in sweep.objectives:
        room, _, rest = objective.name.partition("/")
        if room == "validation" and rest.partition("/")[0] not in asked:
            raise RaylabError(f"--objective {objective.name}: --validate.suite has no {rest.partition('/')[0]!r}.")
        if room == "held_out" and not sweep.train.data.held_out:
            raise RaylabError(f"--objective {objective.name}: --data.held-out is 0, so no rows are held out.")

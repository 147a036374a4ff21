"""What a search for cells is (arXiv 1809.04184): a cheap proxy task for many, full training for the best."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from raylab.config import check_least
from raylab.dense.plan import CellRun, absolute
from raylab.dense.plan import check as check_training
from raylab.errors import RaylabError, nearest
from raylab.models.cell_space import BRANCHES, NAMED, space_size
from raylab.train.optim import OptimConfig
from raylab.train.plan import absolute_path

SAMPLERS = ("near_best", "uniform")


@dataclass(frozen=True)
class SamplerConfig:
    """Which cells are tried. The paper leaves open how its two kinds are mixed, and what is near: both are ours."""

    kind: str = "near_best"
    """``near_best``: a part uniform over the space, a part near the best so far; ``uniform``."""
    uniform_share: float = 0.5
    """Of ``near_best``: the part that is uniform."""
    best: int = 10
    """Of ``near_best``: a cell near one of so many is drawn."""


@dataclass(frozen=True)
class ProxyConfig:
    """How a cell is tried: trained on maps of a frozen encoder that were computed once."""

    steps: int = 30_000
    """Steps of a cell (section 4.1)."""
    batch: int = 8
    """Maps of a step."""
    looks: int = 3
    """How often a cell is looked at, in even distances, the last time at its end."""
    keep: int = 3
    """Of this many cells at a look, one goes on (arXiv 1810.05934); 1: all do."""
    optim: OptimConfig = field(default_factory=OptimConfig)


@dataclass(frozen=True)
class SearchConfig:
    """A search."""

    recipe: str
    """Which function made this config."""
    full: CellRun
    """Full training, of the best cells. Its encoder is the proxy's, frozen; its cell is replaced."""
    out: str = ""
    """The search's folder: maps are read from it by memory mapping, so it is no bucket."""
    shared_disk: bool = False
    """All paths lie on a disk that every node of the cluster mounts at the same place."""
    cells: int = 28_000
    """Cells that are tried in all."""
    branches: int = BRANCHES
    """Of a cell."""
    top: int = 50
    """The best so many by the proxy are trained in full."""
    compare: tuple[str, ...] = ("aspp",)
    """Cells by name or file that are trained in full beside them."""
    backbone_steps: int = 0
    """Where the encoder has no weights: it is first trained for so many steps on `backbone_train`."""
    backbone_train: str = ""
    """Pictures and masks for that; empty: those of full training."""
    seed: int = 0
    """Of what is drawn, of maps, and of the cells' weights."""
    concurrent: int = 0
    """Cells at a time; 0: as many as fit the cluster."""
    cpus: float = 1.0
    """CPUs of each worker."""
    gpus: float = 0.0
    """GPUs of each worker; several cells share one where this is below 1."""
    retries: int = 3
    """How often a cell whose process died is begun again."""
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    proxy: ProxyConfig = field(default_factory=ProxyConfig)


FREE = ("out", "shared_disk", "cells", "top", "compare", "concurrent", "cpus", "gpus", "retries")
"""Fields that may differ when a search goes on; all others make another search."""


def check(config: SearchConfig) -> None:
    """Raise `RaylabError` for what can be told before anything is opened."""
    if not config.out:
        raise RaylabError("--out is missing: the search's folder.")
    if "://" in config.out:
        raise RaylabError(f"--out {config.out}: maps are read by memory mapping: give a folder of a disk, no bucket.")
    _check_numbers(config)
    known, kind = SAMPLERS, config.sampler.kind
    if kind not in known:
        raise RaylabError(f"--sampler.kind {kind!r} is not known: {', '.join(known)}.{nearest(kind, known)}")
    if not 0 <= config.sampler.uniform_share <= 1:
        raise RaylabError(f"--sampler.uniform-share {config.sampler.uniform_share}: 0 to 1.")
    if config.gpus < 0 or config.cpus <= 0:
        raise RaylabError(f"--cpus {config.cpus}, --gpus {config.gpus}: above 0, and 0 or more.")
    encoder = config.full.task.encoder
    if not (encoder.weights or encoder.pretrained or config.backbone_steps):
        raise RaylabError(
            "The proxy's encoder is frozen and would have random weights: give --full.task.encoder.weights the model "
            "of a run of jobs/segment.py, --full.task.encoder.pretrained, or --backbone-steps."
        )
    if config.full.accelerator == "xla":
        raise RaylabError(
            "--full.accelerator xla: a search tries many cells, and XLA would compile each anew: search with cpu or "
            "cuda, then train the best cell by jobs/segment.py --task.head.cell OUT/best.json --accelerator xla."
        )
    check_training(replace(config.full, out=config.out))


def placed(config: SearchConfig) -> SearchConfig:
    """Return the search with ``auto`` settled by what its workers ask for: a host's TPU is never taken, see `check`."""
    if config.full.accelerator != "auto":
        return config
    return replace(config, full=replace(config.full, accelerator="cuda" if config.gpus else "cpu"))


def _check_numbers(config: SearchConfig) -> None:
    proxy = config.proxy
    check_least(
        {
            "cells": (config.cells, 1),
            "branches": (config.branches, 1),
            "top": (config.top, 0),
            "backbone-steps": (config.backbone_steps, 0),
            "concurrent": (config.concurrent, 0),
            "retries": (config.retries, 0),
            "sampler.best": (config.sampler.best, 1),
            "proxy.looks": (proxy.looks, 1),
            "proxy.steps": (proxy.steps, proxy.looks),
            "proxy.batch": (proxy.batch, 2),
            "proxy.keep": (proxy.keep, 1),
        }
    )
    if config.cells > (size := space_size(config.branches)):
        raise RaylabError(f"--cells {config.cells}: there are {size} cells of {config.branches} branches.")


def with_cell(config: SearchConfig, cell: str, out: str) -> CellRun:
    """Return full training of a cell (one of `NAMED`, or a file), in a folder."""
    run = config.full
    name = cell if cell in NAMED else cell.rpartition("/")[2].removesuffix(".json")
    task = replace(run.task, head=replace(run.task.head, cell=cell if cell in NAMED else absolute_path(cell)))
    return absolute(replace(run, recipe=f"{config.recipe}_{name}", task=task, out=out))

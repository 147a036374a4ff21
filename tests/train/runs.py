"""Small training runs in this process, as one worker, without Ray."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from train.training_store import Store

from raylab.kb.catalog import Catalog
from raylab.recipes.train import TRAIN
from raylab.sources.base import SourceConfig
from raylab.storage import Folder
from raylab.tasks.base import TaskContext
from raylab.train.examples import part_names, survey_part, write_survey
from raylab.train.loop import Curve
from raylab.train.plan import CheckpointConfig, ParallelConfig, TrackConfig, TrainConfig
from raylab.train.worker import Run, read_here, work

MINIWORLD = [name for name in TRAIN if name.endswith("_miniworld")]


def small(recipe: str, store: Store, out: Path, **changes: object) -> TrainConfig:
    """A run of some steps that logs each and saves every second."""
    config = replace(
        TRAIN[recipe](),
        source=SourceConfig(uri=store.source),
        labels=store.labels,
        kb=store.kb,
        out=str(out),
        steps=6,
        batch=16,
        checkpoint=CheckpointConfig(every=2),
        track=TrackConfig(every=1, project=""),
        parallel=ParallelConfig(threads=1),
    )
    return replace(config, **changes)  # type: ignore[arg-type]


def prepared(config: TrainConfig) -> Run:
    """Survey the label store."""
    labels, kb = Folder(config.labels), Catalog.open(config.kb)
    collator = config.task.collator(TaskContext(config.kb, config.out, 0, config.seed))
    found = [survey_part(labels, name, collator) for name in part_names(labels, config.data.rows)]
    return Run(config, write_survey(Folder(config.out), kb, found))


def train(config: TrainConfig, on_point: Callable[[int, Curve], None] = lambda step, point: None) -> dict[int, Curve]:
    """Train in this process; return the points."""
    points: dict[int, Curve] = {}

    def take(step: int, point: Curve) -> bool:
        points[step] = point
        on_point(step, point)
        return False

    work(prepared(config), read_here, take)
    return points

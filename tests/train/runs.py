"""Small training runs in this process, as one worker, without Ray."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from train.training_store import Store

from raylab.kb.catalog import Catalog
from raylab.recipes.devise import RANDOM_64
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
    """A run of some steps that logs each and saves every second. Where word vectors are missing, they are random."""
    config = TRAIN[recipe]()
    if getattr(config.task, "words", None) == "":
        config = replace(config, task=replace(config.task, words=RANDOM_64))
    config = replace(
        config,
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
    names = part_names(labels, config.data.rows)
    data = config.data
    found = [survey_part(labels, name, collator, data.held_out, data.mix) for name in names]
    return Run(config, write_survey(Folder(config.out), kb, found))


class Told:
    """Keeps what a run tells."""

    def __init__(self, on_point: Callable[[int, Curve], None]) -> None:
        self.on_point = on_point
        self.points: dict[int, Curve] = {}
        self.last_saved = 0
        self.said: list[str] = []
        self.pictures: list[tuple[np.ndarray, str]] = []

    def say(self, line: str) -> None:
        self.said.append(line)

    def point(self, step: int, point: Curve) -> bool:
        self.points[step] = point
        self.on_point(step, point)
        return False

    def saved(self, step: int) -> None:
        self.last_saved = step

    def samples(self, pictures: list[tuple[np.ndarray, str]]) -> None:
        self.pictures = pictures


def train(config: TrainConfig, on_point: Callable[[int, Curve], None] = lambda step, point: None) -> dict[int, Curve]:
    """Train in this process; return the points."""
    told = Told(on_point)
    work(prepared(config), read_here, told)
    return told.points

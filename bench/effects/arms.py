"""One arm of a comparison: a model trained on one kind of label, and what it scores. A process of its own each.

.venv/bin/python bench/effects/arms.py NAME WORLD KB OUT STEPS SEED
"""

from __future__ import annotations

import io
import json
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image

from raylab.evaluate.generative import GitRecogniser
from raylab.evaluate.matching import match
from raylab.evaluate.oven import score_predictions
from raylab.evaluate.oven_files import Prediction, Question
from raylab.evaluate.retrieval import average_precisions
from raylab.kb.catalog import Catalog
from raylab.models.clip import ClipConfig
from raylab.models.git_module import GitShape
from raylab.recipes.label import MINIWORLD_CLIP
from raylab.recipes.train import TRAIN
from raylab.sources.base import SourceConfig
from raylab.storage import Folder
from raylab.tasks.base import TaskContext
from raylab.tasks.git import TargetsConfig
from raylab.train.examples import part_names, survey_part, write_survey
from raylab.train.export import export
from raylab.train.loop import Curve
from raylab.train.plan import CheckpointConfig, TrackConfig, TrainConfig
from raylab.train.worker import Run, read_here, work

SHAPE = GitShape(width=96, layers=2, heads=3, dropout=0.0, context=12, target=24)
"""Smaller than the recipe's: nine of them are trained in half an hour."""
NAME_TOKENS = 14
"""Of a target that is a name (10 at most, here); the network is the same, there is less padding."""
BATCH = 32
RATE, TUNING_RATE = 2e-3, 5e-5
TUNING_STEPS = 100
"""A higher rate, or longer, makes a model forget the entities that the training questions do not have; the paper, too,
tunes with a hundredth of the first rate."""
ENTITY_ALONE = TargetsConfig(rationale=0, questions=0)
QUESTIONS_ALONE = TargetsConfig(entity=0, rationale=0)


def _dual(config: Any) -> TrainConfig:
    return replace(config, batch=BATCH, optim=replace(config.optim, rate=RATE))


def _mofi(weight: float) -> Callable[[], TrainConfig]:
    def make() -> TrainConfig:
        config: Any = TRAIN["mofi_miniworld"]()
        return _dual(replace(config, task=replace(config.task, supervised_weight=weight)))

    return make


def _git(targets: TargetsConfig) -> Callable[[], TrainConfig]:
    def make() -> TrainConfig:
        config: Any = TRAIN["git_miniworld"]()
        encoder = replace(config.task.encoder, from_scratch=False)
        shape = SHAPE if targets.rationale else replace(SHAPE, target=NAME_TOKENS)
        task = replace(config.task, targets=targets, encoder=encoder, shape=shape, encoder_rate=0.3, smoothing=0.1)
        return replace(config, task=task, batch=BATCH, optim=replace(config.optim, rate=RATE, weight_decay=0.0))

    return make


ARMS: dict[str, tuple[Callable[[], TrainConfig], str]] = {
    "clip": (lambda: _dual(TRAIN["clip_miniworld"]()), "selected"),
    "supervised": (_mofi(1.0), "selected"),
    "contrastive": (_mofi(0.0), "selected"),
    "multitask": (_mofi(0.5), "selected"),
    "git_candidates": (_git(ENTITY_ALONE), "candidates"),
    "git_corrected": (_git(ENTITY_ALONE), "corrected"),
    "git_all": (_git(TargetsConfig()), "corrected"),
}
"""Name -> config and label store. The generative arms start from the shipped CLIP's tower, the others from nothing."""


class Quiet:
    """A `worker.Told` that keeps the last point."""

    last: Curve

    def say(self, line: str) -> None:
        """No matter."""

    def point(self, step: int, point: Curve) -> bool:
        """Keep it."""
        self.last = point
        return False

    def saved(self, step: int) -> None:
        """No matter."""

    def samples(self, pictures: list[tuple[np.ndarray, str]]) -> None:
        """Look away."""


@dataclass(frozen=True)
class Arm:
    """What an arm is run with."""

    name: str
    world: Path
    kb: Path
    out: Path
    steps: int
    seed: int


def config_of(arm: Arm) -> TrainConfig:
    """Return what an arm is trained with."""
    make, store = ARMS[arm.name]
    return replace(
        make(),
        source=SourceConfig(uri=str(arm.world / "pairs.parquet")),
        labels=str(arm.world / store),
        kb=str(arm.kb),
        out=str(arm.out),
        steps=arm.steps,
        seed=arm.seed,
        checkpoint=CheckpointConfig(every=arm.steps),
        track=TrackConfig(every=50, project="", samples=0),
    )


def tuned(config: Any) -> TrainConfig:
    """Return the run that goes on from a generative arm's weights with OVEN's training questions."""
    return replace(
        config,
        task=replace(config.task, targets=QUESTIONS_ALONE),
        labels=str(Path(config.labels).with_name("questions")),
        init=config.out,
        out=f"{config.out}_tuned",
        steps=TUNING_STEPS,
        optim=replace(config.optim, rate=TUNING_RATE),
        checkpoint=CheckpointConfig(every=TUNING_STEPS),
    )


def train(config: TrainConfig) -> Curve:
    """Train in this process; return the last point of the curves."""
    labels, share = Folder(config.labels), config.data.held_out
    collator = config.task.collator(TaskContext(config.kb, config.out, 0, config.seed))
    found = [survey_part(labels, part, collator, share) for part in part_names(labels, config.data.rows)]
    run = Run(config, write_survey(Folder(config.out), Catalog.open(config.kb), found))
    told = Quiet()
    work(run, read_here, told)
    export(run)
    return told.last


def retrieval(model: Path, test: Any) -> dict[str, float]:
    """Score a dual encoder: mAP over single-entity test pictures, each of which queries all others."""
    encoder = ClipConfig(name=str(model), pretrained=None, threads=1).load()
    alone_N = test["entity_N"] != ""
    vectors_ND = encoder.encode_images(list(test["image_NHWC"][alone_N]))
    _, class_N = np.unique(test["entity_N"][alone_N], return_inverse=True)
    found = average_precisions(vectors_ND, class_N, self_hit=False)
    return {"mAP": float(np.nanmean(found.average))}


def oven(model: Path, kb: Path, test: Any) -> dict[str, float]:
    """Score a generative recogniser on the questions: accuracy of each split, and harmonic means."""
    recogniser = GitRecogniser.open(model, Catalog.open(kb))
    images = [Image.fromarray(test["image_NHWC"][i]) for i in test["asked_Q"]]
    said = recogniser.recognise(images, test["question_Q"].tolist(), 1)
    rows = zip(test["answer_Q"].tolist(), test["split_Q"].tolist())
    asked = [Question(str(i), "", answer, "", split) for i, (answer, split) in enumerate(rows)]
    # both of the mini-world's held-out splits count: OVEN's names have one of them
    asked = [replace(one, data_split=one.data_split.replace("_test_", "_val_")) for one in asked]
    predictions = [Prediction(str(i), tuple(one.entity_id for one in answer)) for i, answer in enumerate(said)]
    return {f"{one.part}/{one.metric}": one.value for one in score_predictions(asked, predictions)}


def _both(arm: Arm, test: Any) -> dict[str, float]:
    """Score a generative arm as it is, and tuned on OVEN's training questions."""
    folders = {"zero-shot": arm.out, "tuned": arm.out.with_name(f"{arm.name}_tuned")}
    scores = {protocol: oven(folder / "model", arm.kb, test) for protocol, folder in folders.items()}
    return {f"{protocol} {name}": value for protocol, one in scores.items() for name, value in one.items()}


def matching(world: Path, test: Any) -> dict[str, float]:
    """Score both label stores as a memory: the nearest memory picture's label, by the shipped CLIP."""
    encoder = MINIWORLD_CLIP.load()
    alone_N = test["entity_N"] != ""
    query_QD = encoder.encode_images(list(test["image_NHWC"][alone_N]))
    wanted_Q = test["entity_N"][alone_N]
    vectors_ND = encoder.encode_images(_pictures(world))
    found = {}
    for name in ("candidates", "corrected"):
        said, _, _ = match(query_QD, vectors_ND, _labels(world / name, len(vectors_ND)), 1)
        found[name] = float(np.mean(np.array(said) == wanted_Q))
    return found


def _pictures(world: Path) -> list[Image.Image]:
    data = pq.read_table(world / "pairs.parquet", columns=["image"])["image"].to_pylist()
    return [Image.open(io.BytesIO(one)) for one in data]


def _labels(store: Path, rows: int) -> list[str | None]:
    """Return the label of each pair, by its number."""
    labels: list[str | None] = [None] * rows
    for path in sorted((store / "labels").iterdir()):
        for row in pq.read_table(path, columns=["key", "entity_id"]).to_pylist():
            labels[int(row["key"])] = row["entity_id"]
    return labels


def main(arm: Arm) -> None:
    """Be an arm; print its scores."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    test = dict(np.load(arm.world / "test.npz"))
    last: Curve = {}
    if arm.name == "matching":
        scores = matching(arm.world, test)
    else:
        config = config_of(arm)
        last = train(config)
        if arm.name.startswith("git"):
            train(tuned(config))
            scores = _both(arm, test)
        else:
            scores = retrieval(arm.out / "model", test)
    print(json.dumps({"arm": arm.name, "seed": arm.seed, "scores": scores, "last": last}))


if __name__ == "__main__":
    name, world, kb, out, steps, seed = sys.argv[1:]
    main(Arm(name, Path(world), Path(kb), Path(out), int(steps), int(seed)))

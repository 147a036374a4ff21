"""A run of segmentation in this process: the training loop of all tasks, fed with pictures and masks."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from raylab.config import check_same, to_dict
from raylab.dense.batches import training_batches, whole_batches
from raylab.dense.learning import Learning
from raylab.dense.plan import FREE, SegmentationConfig, absolute, check
from raylab.errors import RaylabError
from raylab.sources.segmentation import MaskedImages, open_masked
from raylab.storage import Folder
from raylab.tasks.segmentation import SegmentationLearner
from raylab.tracking import Tracker
from raylab.train.accelerators import open_accelerator
from raylab.train.checkpoint import Checkpoints
from raylab.train.loop import Curve

if TYPE_CHECKING:
    from raylab.train.accelerators.base import Accelerator

logger = logging.getLogger(__name__)

SUMMARY = "summary.json"
MODEL = "model"


def fit(config: SegmentationConfig) -> dict[str, Any]:
    """Train and score, or go on with what an earlier call with the same config began.

    Returns:
        The summary, as it lies in `SUMMARY`: recipe, steps, scores (``miou``, ...), model, out.

    Raises:
        RaylabError: anything that the user can put right; checkpoints stay.
    """
    check(config)
    config = absolute(config)
    out = Folder(config.out)
    train, val = _opened(config)
    _begin(config, out, train, val)
    if out.exists(SUMMARY) and out.read_json(SUMMARY)["steps"] == config.steps:
        return out.read_json(SUMMARY)  # there is nothing left to do
    started = time.perf_counter()
    learner, scores = _train(config, out, train, val)
    with tempfile.TemporaryDirectory() as folder:
        learner.save(Path(folder))
        for file in sorted(Path(folder).iterdir()):
            out.put(file, f"{MODEL}/{file.name}")
    summary = {
        "recipe": config.recipe,
        "steps": config.steps,
        "pictures": len(train),
        "scores": scores,
        "seconds": round(time.perf_counter() - started, 2),
        "model": f"{out.uri}/{MODEL}",
        "out": out.uri,
    }
    out.write_json(SUMMARY, summary)
    return summary


def _opened(config: SegmentationConfig) -> tuple[MaskedImages, MaskedImages]:
    train, val = open_masked(config.train), open_masked(config.val)
    if train.classes != val.classes:
        raise RaylabError(
            f"--train {config.train} has {len(train.classes)} classes, --val {config.val} has {len(val.classes)}: "
            "they must be the same."
        )
    return train, val


def _begin(config: SegmentationConfig, out: Folder, train: MaskedImages, val: MaskedImages) -> None:
    """Write the run's config, or refuse to go on with another one's run."""
    now = to_dict(config) | {"data": [train.fingerprint, val.fingerprint]}
    if out.exists("config.json"):
        before = out.read_json("config.json")
        check_same(_bound(before), _bound(now), f"{out.uri} holds a run with another config")
    out.write_json("config.json", now)


def _bound(config: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that make a run what it is."""
    return {name: value for name, value in config.items() if name not in FREE}


def _train(
    config: SegmentationConfig, out: Folder, train: MaskedImages, val: MaskedImages
) -> tuple[SegmentationLearner, dict[str, float]]:
    """Make the steps that are missing; return the learner and its scores."""
    accelerator = open_accelerator(config.accelerator, config.threads, config.compile_cache)
    _check_shapes(config, accelerator, val)
    torch.manual_seed(config.seed)
    learner = config.task.learner(train.classes)
    learning = Learning(
        learner,
        train.classes,
        accelerator=accelerator,
        optim=config.optim,
        precision=config.precision,
        seed=config.seed,
        about={"seed": config.seed, "data": train.fingerprint},
    )
    checkpoints = Checkpoints(out, config.checkpoint.keep, config.checkpoint.keep_every)
    steps = range(_start(config, checkpoints, learning), config.steps)
    tracker = Tracker(out, config.track.project, to_dict(config), steps.start, group=config.track.group)
    with closing_tracker(tracker):
        if steps:
            _make(config, steps, learning, train, val, tracker=tracker, checkpoints=checkpoints)
        return learner, learning.scores(whole_batches(val, config.pixels, config.batch), config.batch)


def _check_shapes(config: SegmentationConfig, accelerator: Accelerator, val: MaskedImages) -> None:
    """Raise `RaylabError` where a batch cannot be shared by the devices, or pictures would each want a program."""
    if config.batch % accelerator.devices:
        raise RaylabError(
            f"--batch {config.batch} cannot be shared by {accelerator.devices} devices: take a multiple of that."
        )
    sizes = {val[index][0].size for index in range(len(val))} if accelerator.static else set()
    if len(sizes) > 1:
        raise RaylabError(
            f"--val {config.val} has pictures of {len(sizes)} sizes, and --accelerator {accelerator.name} would "
            "compile a program for each: bring them to one size, or take --accelerator cpu or cuda; a run that was "
            "begun goes on there."
        )


def _start(config: SegmentationConfig, checkpoints: Checkpoints, learning: Learning) -> int:
    start = checkpoints.latest() or 0
    if start > config.steps:
        raise RaylabError(
            f"{config.out} has a checkpoint of step {start}, and --steps {config.steps} ends before: give --steps "
            f"{start} or more, or another --out."
        )
    if start:
        learning.state.load(checkpoints, start)
    return start


def _make(
    config: SegmentationConfig,
    steps: range,
    learning: Learning,
    train: MaskedImages,
    val: MaskedImages,
    *,
    tracker: Tracker,
    checkpoints: Checkpoints,
) -> None:
    def point(step: int, curve: Curve) -> bool:
        logger.info(tracker.add(step, curve))
        return False

    def save(step: int) -> None:
        tracker.flush()  # before the checkpoint is named: a run that goes on from it has the curves
        learning.state.save(checkpoints, step)

    def evaluate() -> Curve:
        scores = learning.scores(whole_batches(val, config.pixels, config.batch), config.batch)
        return {f"held_out/{name}": value for name, value in scores.items()}

    batches = training_batches(
        train, config.pixels, batch=config.batch, seed=config.seed, steps=steps, readers=config.readers
    )
    every = config.track.every, config.checkpoint.every, config.track.evaluate_every
    learning.run(batches, steps, evaluate=evaluate, on_point=point, on_save=save, every=every)


@contextmanager
def closing_tracker(tracker: Tracker) -> Iterator[None]:
    """Close it at the end, and tell it whether that is a failure."""
    failed = True
    try:
        yield
        failed = False
    finally:
        tracker.close(failed)

"""One worker of a training run: builds the network, goes on from the last checkpoint, loops. Knows no Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch

from raylab.errors import OutOfMemory, RaylabError
from raylab.models.distributed import rank, world
from raylab.storage import Folder
from raylab.tasks.base import Arrays, Learner, TaskContext
from raylab.train.accelerators import open_accelerator
from raylab.train.accelerators.base import Accelerator
from raylab.train.batch import batches
from raylab.train.checkpoint import Checkpoints, RunState
from raylab.train.examples import parts_of
from raylab.train.held_out import HeldOutRows
from raylab.train.loop import Curve, Loop
from raylab.train.optim import make_optimizer, make_table_optimizer
from raylab.train.order import Order, Share
from raylab.train.plan import TrainConfig
from raylab.train.reader import CHUNK_ROWS, HeldOut, Reader


class Halted(Exception):
    """The run is to end before its last step; its checkpoint is whole."""


Stream = Callable[[Reader, Sequence[range]], Iterable[pa.Table]]
"""Reads the rows of steps in order, a range of steps a task: `read_here`, or by Ray Data."""


def read_here(reader: Reader, tasks: Sequence[range]) -> Iterator[pa.Table]:
    """Read in this process, when the loop asks."""
    for steps in tasks:
        yield from reader.read(steps)


@dataclass(frozen=True)
class Run:
    """What all workers of a run are told.

    Args:
        config: the run.
        examples: what `examples.write_survey` found.
    """

    config: TrainConfig
    examples: dict[str, Any]

    @property
    def context(self) -> TaskContext:
        """What the task is built with."""
        config = self.config
        return TaskContext(config.kb, config.out, self.examples["classes"], config.seed)


class Told(Protocol):
    """Whom a worker tells how it goes."""

    def say(self, line: str) -> None:
        """Take a line for people; every worker calls it with the same."""
        ...

    def point(self, step: int, point: Curve) -> bool:
        """Take a point of the curves; every worker calls it. True: save now, a worker may soon be gone."""
        ...

    def saved(self, step: int) -> None:
        """Note that a checkpoint is whole; every worker calls it. May raise `Halted`."""
        ...

    def samples(self, pictures: list[tuple[np.ndarray, str]]) -> None:
        """Take pictures with what the model says of them; the first worker calls it."""
        ...


def work(run: Run, stream: Stream, told: Told, check_ours: Callable[[], None] = lambda: None) -> None:
    """Train as this process's share of a run; torch.distributed is set up where there are other workers.

    Args:
        run: see there.
        stream: how pieces are read.
        told: see there.
        check_ours: raises where other workers have taken the place of these.

    Raises:
        RaylabError: anything that the user can put right; `OutOfMemory` where smaller passes may fit.
        Halted: `told` wants the run to end.
    """
    try:
        _work(run, stream, told, check_ours)
    except torch.OutOfMemoryError as error:
        parallel = run.config.parallel
        raise OutOfMemory(
            f"The GPU's memory is too small for {run.config.batch} rows a step on {world()} workers in "
            f"{parallel.accumulate} passes: raise --parallel.accumulate, set --parallel.checkpoint-activations, "
            f"--parallel.precision bf16 or --parallel.strategy fsdp, or take a smaller --batch. ({_first_line(error)})"
        ) from error


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0][:300]


def _work(run: Run, stream: Stream, told: Told, check_ours: Callable[[], None]) -> None:
    config = run.config
    accelerator = open_accelerator(config.accelerator, config.parallel.threads, config.parallel.compile_cache)
    _check_devices(config, accelerator)
    learner, state = build(run, accelerator)
    checkpoints = Checkpoints(Folder(config.out), config.checkpoint.keep, config.checkpoint.keep_every, check_ours)
    start = checkpoints.latest() or 0
    if start:
        state.load(checkpoints, start)
    elif config.init:
        told.say(state.load_weights(Checkpoints(Folder(config.init)), Folder(config.out)))
    if start >= config.steps:
        return
    precision = config.parallel.precision
    held = HeldOutRows(
        held_arrays(run, stream, accelerator),
        learner,
        state.module,
        accelerator=accelerator,
        precision=precision,
        seed=config.seed,
        answered=config.track.answered,
    )
    loop = Loop(
        learner=learner,
        module=state.module,
        optimizers=state.optimizers,
        accelerator=accelerator,
        optim=config.optim,
        steps=config.steps,
        accumulate=config.parallel.accumulate,
        precision=precision,
        seed=config.seed,
        log_every=config.track.every,
        on_point=told.point,
        save_every=config.checkpoint.every,
        on_save=lambda step: _save(state, checkpoints, step, told),
        evaluate_every=config.track.evaluate_every,
        evaluate=lambda: _evaluate(held, config, told),
    )
    loop.run(arrays(run, stream, start, accelerator), start)


def _check_devices(config: TrainConfig, accelerator: Accelerator) -> None:
    parts = accelerator.world * accelerator.devices * config.parallel.accumulate
    if config.batch % parts:
        raise RaylabError(
            f"--batch {config.batch} cannot be shared by {accelerator.world * accelerator.devices} devices in "
            f"{config.parallel.accumulate} passes: take a multiple of their product, {parts}."
        )


def _save(state: RunState, checkpoints: Checkpoints, step: int, told: Told) -> None:
    state.save(checkpoints, step)
    told.saved(step)


def _evaluate(held: HeldOutRows, config: TrainConfig, told: Told) -> Curve:
    """Look at the rows that are held out.

    The first worker shows samples; where the network or the class table is sharded, all are needed to make them.
    """
    sharded = config.parallel.strategy == "fsdp" or held.learner.table is not None
    if config.track.samples and (rank() == 0 or sharded):
        pictures = held.samples(config.track.samples)
        if rank() == 0:
            told.samples(pictures)
    return held.point()


def build(run: Run, accelerator: Accelerator) -> tuple[Learner, RunState]:
    """Return a learner on its device, and all that is saved of the run; weights follow from the run's seed."""
    config = run.config
    torch.manual_seed(config.seed)
    learner = config.task.learner(run.context)
    accelerator.place(learner)
    module = accelerator.wrap(learner, config.parallel)
    optimizers: list[torch.optim.Optimizer] = [make_optimizer(learner.groups(), config.optim)]
    if learner.table is not None:
        optimizers.append(make_table_optimizer(learner.table, config.optim))
    accelerator.settle(learner, optimizers)
    about = {"seed": config.seed, "kb": run.examples["kb"], "rows": run.examples["rows"]}
    return learner, RunState(learner, module, optimizers, about, accelerator)


def arrays(run: Run, stream: Stream, start: int, accelerator: Accelerator) -> Iterator[Arrays]:
    """Yield this worker's rows of each pass, from step `start` on."""
    config = run.config
    order = Order(parts_of(run.examples), config.seed, config.data.window_rows, config.batch)
    share = Share(config.batch, accelerator.rank, accelerator.world)
    rows = HeldOut(config.data.held_out, mix=config.data.mix)
    reader = Reader(config.labels, config.source, config.task.collator(run.context), order, share=share, rows=rows)
    size = max(1, config.data.task_rows // share.rows)
    tasks = [range(step, min(step + size, config.steps)) for step in range(start, config.steps, size)]
    return batches(stream(reader, tasks), share.rows // config.parallel.accumulate)


def held_arrays(run: Run, stream: Stream, accelerator: Accelerator) -> list[Arrays]:
    """Return this worker's rows that are held out, as in evaluation: the middle of each picture.

    They are read before the run's first step, by as many readers as there are.
    """
    config = run.config
    parts = parts_of(run.examples, held=True)
    have = min(config.data.held_out_rows, sum(part.rows for part in parts))
    passes = config.parallel.accumulate * accelerator.world * accelerator.devices
    batch = min(config.batch, have // passes * passes)
    if not batch:
        return []
    collator = config.task.collator(run.context)
    collator.image = replace(collator.image, crop="centre")
    read_at_once = batch // _tasks_a_batch(batch // accelerator.world)
    order = Order(parts, config.seed, have, read_at_once)
    share = Share(read_at_once, accelerator.rank, accelerator.world)
    rows = HeldOut(config.data.held_out, held=True)
    reader = Reader(config.labels, config.source, collator, order, share=share, rows=rows)
    tasks = [range(step, step + 1) for step in range(have // batch * (batch // read_at_once))]
    return list(batches(stream(reader, tasks), batch // accelerator.world // config.parallel.accumulate))


def _tasks_a_batch(rows: int) -> int:
    """Return into how many tasks reading a worker's rows of a batch is cut: of `CHUNK_ROWS` rows each, or more."""
    return next(tasks for tasks in range(max(1, rows // CHUNK_ROWS), 0, -1) if rows % tasks == 0)

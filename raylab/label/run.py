"""The labeling run: on Ray Data read, steps in actor pools, commits; then, without Ray, second pass and explanation."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any, cast

import pyarrow as pa
import ray

from raylab.config import to_dict
from raylab.errors import RaylabError
from raylab.kb.catalog import Catalog
from raylab.label import store
from raylab.label.attempts import Attempts
from raylab.label.plan import LabelConfig, Stage, check, stages
from raylab.label.second_pass import second_pass
from raylab.label.segments import Segment, identity, read_segment, split
from raylab.label.stage import StageWorker
from raylab.label.step import StepContext
from raylab.label.summary import explain
from raylab.session import READ_CPUS, plain_errors, session
from raylab.sources import open_source
from raylab.sources.base import Source
from raylab.storage import Folder, check_listed

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10.0
"""How often progress is logged."""


def run(config: LabelConfig) -> dict[str, Any]:
    """Label the source, or finish what an earlier call with the same config began.

    Returns:
        The summary, as it lies in ``summary.json`` beside the labels.

    Raises:
        RaylabError: anything that the user can put right; what was committed stays.
    """
    check(config)
    clock = _Clock()
    kb = Catalog.open(config.kb).info
    source = open_source(config.source)
    segments = split(source.shards(), config.store.shards_per_segment)
    folder = Folder(config.out)
    done = store.begin(folder, identity(config, segments, kb.fingerprint))
    folder.write_json("config.json", to_dict(config))
    with ExitStack() as stack:
        if not folder.exists("MANIFEST.json"):
            pending = [segment for segment in segments if segment.index not in done]
            logger.info("%d of %d segments to label", len(pending), len(segments))
            if pending:
                leave = stack.enter_context(
                    session(*needed(config), places=config.places(), shared_disk=config.shared_disk)
                )
                clock.reached("ray")
                with plain_errors():
                    _label(config, source, pending, folder, clock)
                clock.reached("last_commit")
                leave()
            second_pass(folder, config.store.min_entity_images)
            clock.reached("second_pass")
            folder.write_json("clock.json", clock.marks)
        store.tidy(folder, folder.read_json("MANIFEST.json"))
        return explain(config, kb, source, folder, seconds=clock.seconds())


class _Clock:
    """Remembers when a call of the run began, and after how many seconds it reached what: ``clock.json``."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self.marks = {"began": time.time()}

    def seconds(self) -> float:
        return time.perf_counter() - self._started

    def reached(self, mark: str) -> None:
        """Note the first time only."""
        self.marks.setdefault(mark, round(self.seconds(), 3))


def needed(config: LabelConfig) -> tuple[float, float]:
    """Return the CPUs and GPUs without which the pools cannot all start."""
    pools = [stage.pool for stage in stages(config)]
    cpus = READ_CPUS + sum(pool.min_actors * pool.num_cpus for pool in pools)
    return cpus, sum(pool.min_actors * pool.num_gpus for pool in pools)


class RemoteLedger:
    """An `isolate.Ledger` that asks an actor of `Attempts`."""

    def __init__(self) -> None:
        options: dict[str, Any] = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1}
        self._actor: Any = ray.remote(**options)(Attempts).remote()

    def begin(self, key: str) -> int:
        """See `isolate.Ledger`."""
        return ray.get(self._actor.begin.remote(key))

    def end(self, key: str) -> None:
        """See `isolate.Ledger`."""
        self._actor.end.remote(key)


def _pipeline(config: LabelConfig, source: Source, segments: list[Segment], folder: Folder) -> ray.data.Dataset:
    """Compose read tasks and one actor pool a stage; the result's rows are `store.PIECES`."""
    from raylab.streams import stream  # imported while Ray starts, see `session`

    ledger = RemoteLedger()
    home = ray.get_runtime_context().get_node_id()
    dataset = stream([partial(_read_segment, source, segment, home) for segment in segments])
    configs = config.step_configs()
    plan = stages(config)
    for stage in plan:
        arguments = {
            "name": stage.name,
            "steps": {step: configs[step] for step in stage.steps},
            "context": StepContext(kb=config.kb, source=config.source, device=stage.device),
            "ledger": ledger,
            "folder": folder if stage is plan[-1] else None,
        }
        dataset = _map(dataset, stage, arguments)
    return dataset


def _read_segment(source: Source, segment: Segment, home: str) -> Iterator[pa.Table]:
    """Read a segment; what is missing on another node than the driver's is no bad input, but another disk."""
    if ray.get_runtime_context().get_node_id() != home:
        check_listed([shard.uri for shard in segment.shards], platform.node())
    yield from read_segment(source, segment)


def _map(dataset: ray.data.Dataset, stage: Stage, arguments: dict[str, Any]) -> ray.data.Dataset:
    pool = stage.pool
    return dataset.map_batches(
        StageWorker,
        batch_size=pool.batch_rows,
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=ray.data.ActorPoolStrategy(min_size=pool.min_actors, max_size=pool.max_actors),
        num_cpus=pool.num_cpus,
        num_gpus=pool.num_gpus,
        fn_constructor_kwargs=arguments,
    )


def _label(config: LabelConfig, source: Source, segments: list[Segment], folder: Folder, clock: _Clock) -> None:
    """Run the pipeline over the segments and commit each one when all its rows are there."""
    open_segments = store.OpenSegments()
    commits = _Commits(folder, list(config.step_configs()))
    progress = _Progress(len(segments))
    for piece in _pieces(_pipeline(config, source, segments, folder)):
        clock.reached("first_rows")
        if complete := open_segments.add(piece):
            commits.start(piece[store.SEGMENT], complete)
        progress.add(piece["rows"], commits.done())
    clock.reached("last_rows")
    commits.wait()
    if missing := open_segments.incomplete():
        raise RaylabError(f"Segments {missing[:10]} ended without all their rows: start the same line again.")


def _pieces(dataset: ray.data.Dataset) -> Iterator[dict[str, Any]]:
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from cast(pa.Table, batch).to_pylist()


class _Commits:
    """Merges complete segments in threads of the driver: Arrow does the work, and no process has to start for it."""

    def __init__(self, folder: Folder, steps: list[str]) -> None:
        self._task = partial(store.commit_segment, folder)
        self._steps = steps
        self._threads = ThreadPoolExecutor(store.THREADS)
        self._running: list[Future[dict[str, Any]]] = []
        self._done = 0

    def start(self, segment: int, pieces: list[str]) -> None:
        self._running.append(self._threads.submit(self._task, segment, pieces, self._steps))

    def done(self) -> int:
        """Return how many are finished by now; raises what one of them died of."""
        for future in [future for future in self._running if future.done()]:
            future.result()
            self._running.remove(future)
            self._done += 1
        return self._done

    def wait(self) -> None:
        """Return when all are finished; raises what one of them died of."""
        self._threads.shutdown(wait=True)
        self.done()


class _Progress:
    """Logs how far the run is, now and then."""

    def __init__(self, segments: int) -> None:
        self._segments = segments
        self._rows = 0
        self._started = self._said = time.monotonic()

    def add(self, rows: int, commits: int) -> None:
        self._rows += rows
        now = time.monotonic()
        if now - self._said > SECONDS_BETWEEN_LINES:
            self._said = now
            rate = self._rows / (now - self._started)
            logger.info("%d rows, %.0f rows/s, %d of %d segments", self._rows, rate, commits, self._segments)

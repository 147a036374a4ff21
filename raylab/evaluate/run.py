"""Evaluation runs: benchmarks in turn; with workers, images are read and embedded by a streaming Ray Data job."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import pyarrow as pa

from raylab.config import to_dict
from raylab.errors import RaylabError
from raylab.evaluate.base import Outcome
from raylab.evaluate.features import BATCH_ROWS, Execute, ModelSubject, Step, in_process
from raylab.evaluate.models import GIT_CONFIG, find_model, is_generative
from raylab.evaluate.plan import EvaluateConfig, check, needs_model
from raylab.evaluate.suite import build
from raylab.evaluate.summary import explain
from raylab.storage import Folder

logger = logging.getLogger(__name__)

READ_TASKS = 16
"""Requests are handed to Ray Data in so many read tasks, at most: they hold addresses only."""


def run(config: EvaluateConfig) -> dict[str, Any]:
    """Score a model by the benchmarks of a suite.

    Returns:
        The summary, as it lies in ``scores.json``.

    Raises:
        RaylabError: anything that the user can put right. All data sets are opened before the model is.
    """
    names = check(config)
    started = time.perf_counter()
    benchmarks = build(config, names)
    if needs_model(config, names):
        _check_kind(config.model, names)
    folder = Folder(config.out)
    folder.write_json("config.json", to_dict(config))
    outcomes: dict[str, Outcome] = {}
    with ExitStack() as stack:
        execute: Execute = in_process
        if config.workers and needs_model(config, names):
            execute = stack.enter_context(_actors(config))
        subject = ModelSubject(config.model_config(), config.kb, execute)
        for name, benchmark in benchmarks.items():
            logger.info("%s ...", name)
            outcomes[name] = benchmark(subject)
    seconds = time.perf_counter() - started
    return explain(config, folder, benchmarks, outcomes, subject, seconds=seconds)


def _check_kind(path: str, names: list[str]) -> None:
    """Raise `RaylabError` where a generative model is asked for vectors, before other benchmarks have taken hours."""
    if not is_generative(path):
        return
    facts = Path(find_model(path)) / GIT_CONFIG
    codes = facts.is_file() and json.loads(facts.read_text(encoding="utf-8"))["codes"]
    can = ("oven", "label_quality") if codes else ("oven", "zero_shot", "label_quality")
    if wrong := [name for name in names if name not in can]:
        writes = "writes ALD codes of entities" if codes else "is a generative model and embeds no images"
        raise RaylabError(
            f"--model {path} {writes}: leave {', '.join(wrong)} out of --suite. It takes {', '.join(can)}."
        )


@contextmanager
def _actors(config: EvaluateConfig) -> Iterator[Actors]:
    """Start Ray, or use the one that is there. It is imported here: a run without workers does not pay for it."""
    from raylab.session import READ_CPUS, session

    gpus = 1.0 if config.device.startswith("cuda") else 0.0
    cpus = READ_CPUS + config.workers * config.num_cpus
    with session(cpus, config.workers * gpus, places=config.places(), shared_disk=config.shared_disk):
        yield Actors(config.workers, config.num_cpus, gpus)


class Actors:
    """Runs steps in a pool of Ray actors, rows streaming through it; see `features.Execute`.

    Args:
        workers: actors, at most.
        num_cpus: of each.
        num_gpus: of each.
    """

    def __init__(self, workers: int, num_cpus: float, num_gpus: float) -> None:
        self.workers, self.num_cpus, self.num_gpus = workers, num_cpus, num_gpus

    def __call__(self, make: Callable[[], Step], requests: pa.Table) -> Iterator[pa.Table]:
        """Yield what the step returns, as it comes.

        Raises:
            RaylabError: what the step raised.
        """
        import ray

        from raylab.session import plain_errors
        from raylab.streams import stream

        actors = min(self.workers, -(-requests.num_rows // BATCH_ROWS))
        dataset = stream(list(_reads(requests))).map_batches(
            _Worker,
            batch_size=BATCH_ROWS,
            batch_format="pyarrow",
            zero_copy_batch=True,
            compute=ray.data.ActorPoolStrategy(min_size=actors, max_size=actors),
            num_cpus=self.num_cpus,
            num_gpus=self.num_gpus,
            fn_constructor_kwargs={"make": make},
        )
        with plain_errors():
            for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
                yield cast(pa.Table, batch)


def _reads(requests: pa.Table) -> Iterator[Callable[[], Iterator[pa.Table]]]:
    batches = -(-requests.num_rows // BATCH_ROWS)
    rows = -(-batches // READ_TASKS) * BATCH_ROWS
    for start in range(0, requests.num_rows, rows):
        yield partial(_read, requests.slice(start, rows))


def _read(requests: pa.Table) -> Iterator[pa.Table]:
    for start in range(0, requests.num_rows, BATCH_ROWS):
        yield requests.slice(start, BATCH_ROWS)


class _Worker:
    """An actor's step. One that cannot be made says so at its first batch: else Ray would make it again and again."""

    def __init__(self, make: Callable[[], Step]) -> None:
        self._error: RaylabError | None = None
        try:
            self._step = make()
        except RaylabError as error:
            self._error = error

    def __call__(self, batch: pa.Table) -> pa.Table:
        if self._error:
            raise self._error
        return self._step(batch)

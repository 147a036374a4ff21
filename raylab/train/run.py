"""A training run on Ray: a survey of the label store, workers under Ray Train, rows by Ray Data, the trained model."""

from __future__ import annotations

import logging
import pickle
import platform
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from threading import Event
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import ray
from ray.exceptions import ActorUnavailableError, OutOfMemoryError

from raylab.config import to_dict
from raylab.errors import Interrupted, OutOfMemory, RaylabError
from raylab.kb.catalog import Catalog
from raylab.samples import write_samples
from raylab.session import READ_CPUS, auto_accelerator, plain_errors, resource, session
from raylab.storage import Folder, check_seen
from raylab.tracking import Tracker, clear_temporary
from raylab.train.begin import ERROR, begin, completed
from raylab.train.board import Board, Pace
from raylab.train.examples import EXAMPLES, POINTER, check_mix, part_names, survey_part, write_survey
from raylab.train.loop import Curve, images_per_second
from raylab.train.plan import TrainConfig, absolute, check

if TYPE_CHECKING:
    from ray.train.v2.api.exceptions import TrainingFailedError

    from raylab.train.reader import Reader

logger = logging.getLogger(__name__)

SUMMARY = "summary.json"
"""In a run's folder, once it is finished."""
SECONDS_BETWEEN_LOOKS = 2.0
"""How often the driver asks for news."""
SECONDS_TO_ANSWER = 0.1
"""How often it, and its workers, ask for news of a run that somebody paces."""
BLOCK_BYTES = 32 * 2**20
"""Rows with their pixels travel in blocks of about this size."""
MOST_WORDS = 4
"""Workers that are quoted where a run fails."""
DATASET_TASKS = 2048
"""Read tasks of one of Ray's datasets. Between two, training waits for one task: seconds in hours."""


def run(config: TrainConfig, pace: Pace | None = None) -> dict[str, Any]:
    """Train, or go on with what an earlier call with the same config began.

    Args:
        config: the run.
        pace: says after each look at held-out rows whether the run goes on; by default it does. Steps at which the run
            is looked at have to be saved, too.

    Returns:
        The summary, as it lies in `SUMMARY`; of a run that `pace` ended, which has no trained model, it is not written.

    Raises:
        RaylabError: anything that the user can put right; checkpoints stay.
        OutOfMemory: of these, what a larger `parallel.accumulate` may help: of a device, or of a host.
        Interrupted: of these, workers that died too often.
    """
    config = completed(config)
    check(config)
    config = absolute(config)
    started = time.perf_counter()
    out, labels, kb = Folder(config.out), Folder(config.labels), Catalog.open(config.kb)
    begin(config, out, labels, kb)
    if out.exists(SUMMARY) and out.read_json(SUMMARY)["steps"] == config.steps:
        return out.read_json(SUMMARY)  # there is nothing left to do
    parallel = config.parallel
    needed = READ_CPUS + parallel.workers * parallel.cpus
    connected = session(
        needed,
        worker_logs=False,
        places=config.places(),
        shared_disk=config.shared_disk,
    )
    with connected, plain_errors():
        check_gpus(config)
        examples = out.read_json(EXAMPLES) if out.exists(EXAMPLES) else survey(config, out, labels, kb)
        _check_examples(config, examples)
        point = _train(config, examples, out, pace)
    summary = _summarise(config, examples, point, time.perf_counter() - started)
    if int(out.read_json(POINTER)["step"]) < config.steps:
        return summary
    from raylab.train.export import export
    from raylab.train.worker import Run

    export(Run(config, examples))
    out.write_json(SUMMARY, summary)
    return summary


def gpus_of_worker(config: TrainConfig) -> float:
    """Return the GPUs of a worker."""
    accelerator = config.accelerator
    if accelerator == "auto" and ray.is_initialized():
        accelerator = auto_accelerator()
    return config.parallel.gpus if accelerator == "cuda" else 0.0


def check_gpus(config: TrainConfig) -> None:
    """Raise `RaylabError` where workers would wait for GPUs that never come; Ray has to be there to know of them."""
    needed, has = config.parallel.workers * gpus_of_worker(config), resource("GPU")
    if needed > has:
        fewer = f"--parallel.workers {has:g}, " if has else ""
        each = "a GPU" if config.parallel.gpus == 1 else f"{config.parallel.gpus:g} GPUs"
        raise RaylabError(
            f"{config.parallel.workers} workers need {each} each and this Ray has {has:g}: {fewer}--accelerator cpu, "
            "or a cluster that has them."
        )
    if needed > ray.cluster_resources().get("GPU", 0.0):
        logger.warning("the workers need %g GPUs, the cluster has fewer now: waiting for it to grow", needed)


def survey(config: TrainConfig, out: Folder, labels: Folder, kb: Catalog) -> dict[str, Any]:
    """Count usable rows and entities, a Ray task a file; see `examples.write_survey`."""
    from raylab.tasks.base import TaskContext

    collator = config.task.collator(TaskContext(config.kb, config.out, 0, config.seed))
    count: Any = ray.remote(num_cpus=READ_CPUS)(survey_part)
    names = part_names(labels, config.data.rows)
    data = config.data
    found = ray.get([count.remote(labels, name, collator, data.held_out, data.mix) for name in names])
    return write_survey(out, kb, found)


def _check_examples(config: TrainConfig, examples: dict[str, Any]) -> None:
    if examples["rows"] < config.batch:
        raise RaylabError(
            f"{config.labels} has {examples['rows']} rows of use for {config.recipe} ({examples['left_out']} are not): "
            f"a batch takes {config.batch}. Take a smaller --batch, or more labels."
        )
    check_mix(examples, config.data.mix, config.batch)
    logger.info("%d rows, %d entities", examples["rows"], examples["classes"])


def _train(config: TrainConfig, examples: dict[str, Any], out: Folder, pace: Pace | None) -> Curve:
    """Run the workers; return the last point of the curves."""
    from ray.train import FailureConfig, RunConfig
    from ray.train.v2.api.exceptions import TrainingFailedError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from raylab.train.accelerators.run import make_trainer

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)  # others may go
    board: Any = ray.remote(num_cpus=0)(Board).options(scheduling_strategy=here).remote()
    run_config = RunConfig(
        storage_path=f"{out.uri}/ray" if "://" in out.uri else out.path("ray"),
        failure_config=FailureConfig(max_failures=config.parallel.max_failures),
    )
    work = partial(_worker, config, examples, board, pace is not None)
    trainer = make_trainer(work, config, gpus_of_worker(config), run_config)
    result: Any = None
    try:
        with _progress(board, pace):
            result = trainer.fit()
    except TrainingFailedError as failure:
        if not ray.get(board.error.remote()):
            out.write_json(ERROR, {"error": str(failure)})
            lacks = lacked_memory(failure)
            raise (OutOfMemory if lacks else Interrupted)(_why(failure, config, out)) from failure
    if error := ray.get(board.error.remote()):
        out.write_json(ERROR, {"error": str(error)})
        raise error
    return result.return_value


def _why(failure: TrainingFailedError, config: TrainConfig, out: Folder) -> str:
    """Return why Ray Train gave up, by the workers' own words where it was they who failed."""
    from ray.train.v2.api.exceptions import WorkerGroupError

    if isinstance(failure, WorkerGroupError):
        again = f"and were begun again {config.parallel.max_failures} times (--parallel.max-failures)."
        begun = f"{_of_memory(config)}, {again}" if lacked_memory(failure) else f"Workers died, {again}"
        said = {f"Worker {rank}": error for rank, error in failure.worker_failures.items()}
    else:
        begun = f"{_of_memory(config)} while they began." if lacked_memory(failure) else "Ray Train gave up."
        said = {"It": getattr(failure, "controller_failure", failure)}
    words = [f"{who} says: {_one_line(error)}" for who, error in list(said.items())[:MOST_WORDS]]
    rest = f"All that was said lies in {out.uri}/{ERROR}. The same line goes on from the last checkpoint."
    return "\n  ".join([begun, *words, rest])


def lacked_memory(failure: TrainingFailedError) -> bool:
    """Tell whether the memory monitor of a host killed a worker; what others died of follows from that.

    Workers that it kills while they begin are the controller's failure.
    """
    died = [*getattr(failure, "worker_failures", {}).values(), getattr(failure, "controller_failure", None)]
    return any(isinstance(getattr(error, "health_check_failure", error), OutOfMemoryError) for error in died)


def _of_memory(config: TrainConfig) -> str:
    return (
        f"Out of memory, the host's, with {config.batch} rows a step on {config.parallel.workers} workers in "
        f"{config.parallel.accumulate} passes: raise --parallel.accumulate, take a smaller --batch, or put less beside "
        "them. Its memory monitor killed workers"
    )


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


@contextmanager
def _progress(board: Any, pace: Pace | None) -> Iterator[None]:
    """Show what is written on the board, and answer workers that wait, while the driver waits for them."""
    over = Event()

    def show() -> None:
        while True:
            last = over.wait(SECONDS_TO_ANSWER if pace else SECONDS_BETWEEN_LOOKS)
            with suppress(ActorUnavailableError):  # a network that falters: ask again
                for line in ray.get(board.take.remote()):
                    logger.info(line)
                if pace and (reached := ray.get(board.reached.remote())):
                    ray.get(board.answer.remote(reached[0], pace.at(*reached)))
            if last:
                return

    with ThreadPoolExecutor(1) as aside:
        shown = aside.submit(show)
        try:
            yield
        finally:
            over.set()
            shown.result()


def _worker(config: TrainConfig, examples: dict[str, Any], board: Any, paced: bool) -> Curve:
    """Be one worker under Ray Train; return the last point."""
    from ray.train.collective import broadcast_from_rank_zero

    from raylab.train.worker import Halted, Run, work

    out = Folder(config.out)
    check_seen(out, "config.json", platform.node())
    if ray.get(board.error.remote()):
        return {}
    told = _Told(config, out, board, workers=broadcast_from_rank_zero(uuid.uuid4().hex), paced=paced)
    try:
        work(Run(config, examples), _stream, told, told.check_heard)
    except Halted:
        told.say("the run ends here, as it was told to")
    except RaylabError as error:
        told.failed = True
        ray.get(board.fail.remote(told.workers, error))
        raise
    finally:
        told.close()
    return told.last


class _Told:
    """A `worker.Told`: passes the curves on to the tracker; asks Ray Train at each point whether a node will go.

    `workers` names the workers that began together.
    """

    def __init__(self, config: TrainConfig, out: Folder, board: Any, workers: str, paced: bool) -> None:
        from raylab.train.checkpoint import Checkpoints

        self.config, self.workers, self.paced = config, workers, paced
        self.failed = False
        self._board = board
        ray.get(board.begin.remote(workers))
        self.is_first = ray.train.get_context().get_world_rank() == 0
        self.last: Curve = {}
        self.tracker: Tracker | None = None
        if self.is_first:
            start = Checkpoints(out).latest() or 0
            world = ray.train.get_context().get_world_size()
            self.check_heard(f"{world} workers begin at step {start}")
            self.tracker = Tracker(
                out, config.track.project, to_dict(config), start, group=config.track.group, say=self.check_heard
            )
            self.last = self.tracker.last

    def check_heard(self, line: str = "") -> None:
        """Say a line; raise where others have taken the place of these workers, who must write nothing any more."""
        if not ray.get(self._board.hears.remote(self.workers, line)):
            raise RuntimeError("this node was cut off, and other workers have taken over")

    def say(self, line: str) -> None:
        """Say a line, once for all workers."""
        if self.is_first:
            self.check_heard(line)

    def point(self, step: int, point: Curve) -> bool:
        """Take a point; tell whether a node of the run is about to go."""
        self.last = point | {"images_per_s": images_per_second(point, self.config.batch)}
        if self.tracker is not None:
            self.check_heard(self.tracker.add(step, self.last))
        preempted = ray.train.get_preemption_info() is not None
        saves = preempted or step % self.config.checkpoint.every == 0 or step == self.config.steps
        if saves and self.tracker is not None:
            self.tracker.flush()  # before the checkpoint is named: a run that goes on from it has the curves
        return preempted

    def saved(self, step: int) -> None:
        """Of a run that somebody paces, wait for the word at steps that were looked at."""
        looked_at = step % self.config.track.evaluate_every == 0 or step == self.config.steps
        if self.paced and looked_at:
            self._wait(step)

    def _wait(self, step: int) -> None:
        from raylab.train.worker import Halted

        if self.is_first:
            ray.get(self._board.reach.remote(self.workers, step, self.last))
        asked = 0
        while (word := ray.get(self._board.word.remote(step))) is None:
            asked += 1
            time.sleep(min(1.0, asked * SECONDS_TO_ANSWER))  # a validation takes its time, and workers may be many
        self.last |= word.more
        if self.tracker is not None and word.more:
            self.tracker.extend(step, word.more)
        if not word.goes:
            raise Halted

    def samples(self, pictures: list[tuple[np.ndarray, str]]) -> None:
        """Show pictures in W&B, and keep them in the run's folder."""
        if self.tracker is not None and pictures:
            self.check_heard()
            write_samples(Folder(self.config.out), pictures)
            self.tracker.add_images("held_out", pictures)

    def close(self) -> None:
        if self.tracker is not None and ray.get(self._board.hears.remote(self.workers)):
            self.tracker.close(self.failed)
            if self.config.track.project:
                clear_temporary()


def _stream(reader: Reader, tasks: Sequence[range]) -> Iterator[pa.Table]:
    """Read by Ray Data, in order; this worker is the dataset's driver.

    A dataset costs Ray something for each of its tasks before the first is read, so a long run is several datasets.
    What reads is stored once, and tasks carry a reference to it.
    """
    from raylab.streams import stream

    stored = ray.put(pickle.dumps(reader))
    for at in range(0, len(tasks), DATASET_TASKS):
        reads = [partial(_read, stored, steps) for steps in tasks[at : at + DATASET_TASKS]]
        dataset = stream(reads, block_bytes=BLOCK_BYTES, ordered=True)
        yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=2)


def _read(stored: ray.ObjectRef, steps: range) -> Iterator[pa.Table]:
    """Read the rows of some steps, in a reader's process."""
    from raylab.train.reader import read

    yield from read(ray.get(stored), steps)


def _summarise(config: TrainConfig, examples: dict[str, Any], point: Curve, seconds: float) -> dict[str, Any]:
    return {
        "recipe": config.recipe,
        "steps": config.steps,
        "batch": config.batch,
        "rows": examples["rows"],
        "left_out": examples["left_out"],
        "classes": examples["classes"],
        "last": point,
        "seconds": round(seconds, 2),
        "model": f"{config.out}/model",
        "out": config.out,
    }

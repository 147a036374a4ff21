"""Training under Ray Train and Ray Data: two workers make the steps of one, and tell; what ends a run says so."""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ray import cloudpickle
from ray.exceptions import ActorDiedError, OutOfMemoryError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError
from train.runs import prepared, small, train
from train.training_store import Store
from wandb_files import read_wandb, wandb_folders

from raylab.errors import RaylabError
from raylab.storage import Folder
from raylab.tasks.base import TaskContext
from raylab.tasks.mofi import MofiLearner, MofiTask
from raylab.train import run as trainer
from raylab.train.accelerators import open_accelerator
from raylab.train.order import Order, Part, Share
from raylab.train.plan import CheckpointConfig, TrackConfig, TrainConfig
from raylab.train.reader import HeldOut, Reader
from raylab.train.run import run
from raylab.train.worker import arrays, read_here


@pytest.fixture
def config(store: Store, tower: Path, tmp_path: Path) -> TrainConfig:
    """MOFI on a tower without batch statistics."""
    made = small("mofi_miniworld", store, tmp_path / "run", steps=8, checkpoint=CheckpointConfig(every=4))
    encoder = replace(made.task.encoder, name=str(tower))  # type: ignore[attr-defined]
    data = replace(made.data, held_out=0.2)
    return replace(made, data=data, task=replace(made.task, encoder=encoder))  # type: ignore[type-var]


@pytest.mark.timeout(300)
def test_two_workers_make_the_steps_of_one_and_tell(
    ray_cluster: None, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    config = replace(config, out="run")  # as people write it: workers have another working directory
    alone = train(replace(config, out=str(tmp_path / "alone")))
    told = replace(
        config,
        parallel=replace(config.parallel, workers=2, cpus=0.5),
        track=TrackConfig(every=1, evaluate_every=4, samples=2, group="pair"),
    )
    summary = run(told)
    lines = (tmp_path / "run" / "curves.jsonl").read_text().splitlines()
    points = {point["step"]: point for point in map(json.loads, lines)}
    assert sorted(points) == list(range(1, 9))
    for step, point in points.items():
        for name in ("loss", "gradient_norm"):
            assert point[name] == pytest.approx(alone[step][name], rel=1e-3)
    assert summary["last"]["held_out/loss"] == points[8]["held_out/loss"]
    assert (tmp_path / "run" / "model" / "open_clip_model.safetensors").exists()
    (board,) = map(read_wandb, wandb_folders(tmp_path / "run"))
    assert (board.name, board.group, board.job_type) == ("run", "pair", "train")
    assert board.config["batch"] == config.batch
    assert [point["loss"] for point in board.points()] == [points[step]["loss"] for step in range(1, 9)]
    assert len(board.captions("held_out")) == 2
    assert {"config.json", "examples.json", "curves.jsonl"} <= set(board.files)

    assert run(told) == summary  # there is nothing left to do
    with pytest.raises(RaylabError, match=r"another config:\n  batch: 16 -> 8"):
        run(replace(told, batch=8))
    with pytest.raises(RaylabError, match=r"has a checkpoint of step 8, and --steps 6 ends before"):
        run(replace(told, steps=6))
    assert (tmp_path / "run" / "curves.jsonl").read_text().splitlines() == lines


def test_more_gpus_than_there_are_is_an_error(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``auto``, workers want a GPU each where there is one."""
    monkeypatch.setattr(trainer, "resource", lambda name: 1.0 if name == "GPU" else 0.0)
    monkeypatch.setattr(trainer.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(trainer, "auto_accelerator", lambda: "cuda")
    two = replace(config, accelerator="auto", parallel=replace(config.parallel, workers=2))
    with pytest.raises(RaylabError, match=r"2 workers need a GPU each and this Ray has 1: --parallel.workers 1, "):
        trainer.check_gpus(two)


def test_a_long_runs_read_tasks_are_small_and_come_some_at_a_time(
    ray_cluster: None, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepared(config)
    parts = tuple(Part(f"labels/{number:05d}.parquet", 50_000) for number in range(4_700))
    order, share = Order(parts, 0, 50_000, 4096), Share(4096, 0, 1)
    collator = config.task.collator(run.context)
    reader = Reader(config.labels, config.source, collator, order, share=share, rows=HeldOut(0.01))
    sizes: list[list[int]] = []

    class Nothing:
        def iter_batches(self, **settings: object) -> list[pa.Table]:
            return []

    def stream(reads: list, **settings: object) -> Nothing:
        sizes.append([len(cloudpickle.dumps(read)) for read in reads])
        return Nothing()

    monkeypatch.setattr("raylab.streams.stream", stream)
    assert list(trainer._stream(reader, [range(step, step + 2) for step in range(0, 20_000, 2)])) == []
    assert len(pickle.dumps(reader)) > 100_000
    assert sum(map(len, sizes)) == 10_000
    assert max(map(len, sizes)) == trainer.DATASET_TASKS
    assert sum(map(sum, sizes)) < 10_000_000


def test_rows_come_in_order_from_one_dataset_after_the_other(
    ray_cluster: None, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepared(replace(config, data=replace(config.data, task_rows=16)))
    cpu = open_accelerator("cpu")
    here = list(arrays(run, read_here, 0, cpu))
    monkeypatch.setattr(trainer, "DATASET_TASKS", 3)
    by_ray = list(arrays(run, trainer._stream, 0, cpu))
    assert len(by_ray) == len(here) == 8
    for first, second in zip(here, by_ray):
        for name, values in first.items():
            np.testing.assert_array_equal(values, second[name])


def test_what_workers_died_of_is_told(config: TrainConfig) -> None:
    died = {0: RuntimeError("Connection closed\nby peer"), 3: ValueError("no such layer")}
    said = trainer._why(WorkerGroupError("all of it", died), config, Folder(config.out))
    assert "begun again 3 times (--parallel.max-failures)" in said
    assert "Worker 0 says: RuntimeError: Connection closed by peer" in said
    assert "Worker 3 says: ValueError: no such layer" in said
    assert "error.json. The same line goes on" in said
    assert "It says: TimeoutError: no room" in trainer._why(
        ControllerError(TimeoutError("no room")), config, Folder(config.out)
    )


def test_workers_that_a_hosts_memory_monitor_killed_lacked_memory(config: TrainConfig) -> None:
    killed = WorkerHealthCheckFailedError("A worker health check failed.", failure=OutOfMemoryError("running low"))
    failure = WorkerGroupError("all of it", {0: RuntimeError("Connection closed by peer"), 1: killed})
    assert trainer.lacked_memory(failure)
    said = trainer._why(failure, config, Folder(config.out))
    assert said.startswith("Out of memory, the host's, with")
    assert "in 1 passes: raise --parallel.accumulate" in said and "begun again 3 times" in said
    lost = WorkerHealthCheckFailedError("A worker health check failed.", failure=ActorDiedError())
    assert not trainer.lacked_memory(WorkerGroupError("all of it", {0: lost}))
    assert not trainer.lacked_memory(ControllerError(TimeoutError("no room")))
    early = ControllerError(OutOfMemoryError("running low"))
    assert trainer.lacked_memory(early) and "killed workers while they began." in trainer._why(
        early, config, Folder(config.out)
    )


@dataclass(frozen=True)
class Broken(MofiTask):
    """A task with a mistake in it."""

    def learner(self, context: TaskContext) -> MofiLearner:
        raise ValueError("no such layer")


@pytest.mark.slow
def test_workers_that_die_of_a_mistake_end_the_run_in_a_sentence(ray_cluster: None, config: TrainConfig) -> None:
    broken = replace(config, task=Broken(), parallel=replace(config.parallel, max_failures=1))
    with pytest.raises(RaylabError, match=r"begun again 1 times .*\n  Worker 0 says: ValueError: no such layer"):
        run(broken)
    assert "no such layer" in json.loads((Path(config.out) / "error.json").read_text())["error"]


def test_more_rows_a_batch_than_there_are(ray_cluster: None, config: TrainConfig) -> None:
    with pytest.raises(RaylabError, match=r"rows of use for mofi_miniworld .* a batch takes 1000"):
        run(replace(config, batch=1000))


@pytest.mark.slow
def test_pictures_that_are_gone_end_the_run_at_once(ray_cluster: None, config: TrainConfig, tmp_path: Path) -> None:
    moved = tmp_path / "labels"
    shutil.copytree(config.labels, moved)
    for part in (moved / "labels").iterdir():
        rows = pq.read_table(part)
        gone = [row | {"image": row["image"] | {"uri": "/nowhere/pairs.parquet"}} for row in rows.to_pylist()]
        pq.write_table(pa.Table.from_pylist(gone, rows.schema), part)
    with pytest.raises(RaylabError, match=r"pictures in a row could be opened"):
        run(replace(config, labels=str(moved)))

"""Checkpoints: whole or not there, kept by policy, read by any number of workers, refused where they do not belong."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from distributed_workers import run_workers
from torch.multiprocessing import ProcessRaisedException
from train.runs import Told, prepared, small, train
from train.training_store import Store

from raylab.errors import RaylabError
from raylab.models.class_table import ClassTable, ClassTableConfig
from raylab.storage import Folder
from raylab.tasks.base import Group
from raylab.train.accelerators import open_accelerator
from raylab.train.checkpoint import Checkpoints, RunState
from raylab.train.optim import OptimConfig, make_optimizer, make_table_optimizer
from raylab.train.plan import CheckpointConfig, TrainConfig
from raylab.train.worker import build, read_here, work

CLASSES, DIM = 11, 4


class Small:
    """A learner of one matrix and a table."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.module = torch.nn.Linear(DIM, DIM)
        self.table = ClassTable(CLASSES, DIM, ClassTableConfig(negatives=CLASSES))

    def groups(self) -> list[Group]:
        return [Group("all", list(self.module.parameters()), 1.0, decays=False)]


def state_of(learner: Small, about: dict[str, int | str] | None = None) -> RunState:
    optim = OptimConfig(rate=0.1, table_rate=0.1)
    optimizers = [make_optimizer(learner.groups(), optim), make_table_optimizer(learner.table, optim)]
    accelerator = open_accelerator("cpu")
    return RunState(learner, learner.module, optimizers, about or {"seed": 1}, accelerator)  # type: ignore[arg-type]


def step(learner: Small, state: RunState, seed: int) -> None:
    image_BD = torch.randn(4, DIM, generator=torch.Generator().manual_seed(seed))
    image_BD = torch.nn.functional.normalize(learner.module(image_BD), dim=-1)
    learner.table(image_BD, torch.tensor([0, 5, 10, 5])).backward()
    learner.table.rescale()
    for optimizer in state.optimizers:
        optimizer.step()
        optimizer.zero_grad()


def write(rank: int, world: int, folder: str) -> torch.Tensor:
    learner = Small()
    state = state_of(learner)
    step(learner, state, 0)
    state.save(Checkpoints(Folder(folder)), 1)
    return learner.table.weight.detach()


def read(rank: int, world: int, folder: str) -> dict[str, torch.Tensor]:
    learner = Small()
    with torch.no_grad():
        learner.table.weight.zero_()
        learner.module.weight.zero_()
    state = state_of(learner)
    state.load(Checkpoints(Folder(folder)), 1)
    moments = state.optimizers[1].state[learner.table.weight]
    found = {"table": learner.table.weight.detach(), "moment": moments["exp_avg"]}
    return found | {"module": learner.module.weight.detach(), "step": torch.tensor(int(moments["step"]))}


@pytest.mark.parametrize(("writers", "readers"), [(1, 2), (2, 1)])
def test_another_number_of_workers_reads_it(writers: int, readers: int, tmp_path: Path) -> None:
    folder = str(tmp_path)
    written = torch.cat([write(0, 1, folder)] if writers == 1 else run_workers(write, writers, folder))
    found = [read(0, 1, folder)] if readers == 1 else run_workers(read, readers, folder)
    torch.testing.assert_close(torch.cat([one["table"] for one in found]), written)
    assert torch.cat([one["moment"] for one in found]).count_nonzero()
    for one in found:
        assert one["module"].count_nonzero()
        assert one["step"] == 1


def test_the_pointer_names_whole_checkpoints_alone(tmp_path: Path) -> None:
    checkpoints = Checkpoints(Folder(str(tmp_path)))
    assert checkpoints.latest() is None
    state_of(Small()).save(checkpoints, 3)
    (tmp_path / "checkpoints" / "step-0000000004").mkdir()  # as a kill leaves it
    assert checkpoints.latest() == 3


def test_the_latest_are_kept_and_some_of_the_others(tmp_path: Path) -> None:
    checkpoints = Checkpoints(Folder(str(tmp_path)), keep=2, keep_every=4)
    for number in range(1, 8):
        state_of(Small()).save(checkpoints, number)
    assert [path.name[-2:] for path in sorted((tmp_path / "checkpoints").glob("step-*"))] == ["04", "06", "07"]


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    checkpoints = Checkpoints(Folder(str(tmp_path)))
    state_of(Small(), {"seed": 1, "kb": "abc"}).save(checkpoints, 1)
    with pytest.raises(RaylabError, match=r"made with kb 'abc', this run has 'def'"):
        state_of(Small(), {"seed": 1, "kb": "def"}).load(checkpoints, 1)


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    checkpoints = Checkpoints(Folder(str(tmp_path)))
    state_of(Small()).save(checkpoints, 1)
    for path in (tmp_path / "checkpoints" / "step-0000000001").glob("*.distcp"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(RaylabError, match="step-0000000001 cannot be read"):
        state_of(Small()).load(checkpoints, 1)


def test_a_run_starts_from_another_ones_weights(store: Store, tmp_path: Path) -> None:
    config = small("mofi_miniworld", store, tmp_path / "a", steps=3, checkpoint=CheckpointConfig(every=3))
    train(config)
    other = replace(config, out=str(tmp_path / "b"), init=config.out, steps=1)
    fresh = train(replace(other, out=str(tmp_path / "c"), init=""))
    begun = train(other)
    assert begun[1]["contrastive"] != fresh[1]["contrastive"]
    shutil.rmtree(tmp_path / "a")
    with pytest.raises(RaylabError, match="no checkpoint there"):
        train(replace(other, out=str(tmp_path / "d")))


def begun(config: TrainConfig) -> RunState:
    return build(prepared(config), open_accelerator("cpu"))[1]


def test_class_vectors_of_the_same_entities_are_taken_too(store: Store, tmp_path: Path) -> None:
    config = small("mofi_miniworld", store, tmp_path / "a", steps=2)
    train(config)
    made, first = begun(config), Checkpoints(Folder(config.out))
    made.load(first, 2)
    assert made.learner.table is not None
    state = begun(replace(config, out=str(tmp_path / "b"), seed=5))
    assert state.load_weights(first, Folder(str(tmp_path / "b"))).endswith("a, step 2, class vectors as well")
    assert state.learner.table is not None
    torch.testing.assert_close(state.learner.table.weight, made.learner.table.weight)
    assert not state.optimizers[1].state[state.learner.table.weight]["exp_avg"].any(), "moments begin anew"


def test_class_vectors_of_other_entities_begin_anew_and_the_run_says_so(store: Store, tmp_path: Path) -> None:
    config = small("mofi_miniworld", store, tmp_path / "a", steps=2)
    train(config)
    classes = Folder(config.out).read_parquet("classes.parquet")
    Folder(config.out).write_parquet("classes.parquet", classes.take(list(reversed(range(len(classes))))))
    told = Told(lambda step, point: None)
    other = replace(config, out=str(tmp_path / "b"), init=config.out, steps=1)
    fresh = begun(replace(other, out=str(tmp_path / "c")))
    state = begun(other)
    state.load_weights(Checkpoints(Folder(config.out)), Folder(other.out))
    assert state.learner.table is not None and fresh.learner.table is not None
    torch.testing.assert_close(state.learner.table.weight, fresh.learner.table.weight)
    work(prepared(other), read_here, told)
    assert told.said == [
        f"begins with the weights of {config.out}, step 2; class vectors begin anew: it has none, or of other entities"
    ]


def test_a_worker_that_died_is_not_taken_for_a_damaged_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ProcessRaisedException, match=r"(?s)RuntimeError.*Connection") as caught:
        run_workers(_load_alone, 2, str(tmp_path))
    assert "RaylabError" not in str(caught.value)


def _load_alone(rank: int, world: int, folder: str) -> None:
    state = state_of(Small())
    state.save(Checkpoints(Folder(folder)), 1)
    if rank == 1:
        os._exit(0)  # as a kill: nothing is said to the other
    state.load(Checkpoints(Folder(folder)), 1)


def test_a_checkpoint_of_another_model_is_named(tmp_path: Path) -> None:
    checkpoints = Checkpoints(Folder(str(tmp_path)))
    state_of(Small()).save(checkpoints, 1)
    larger = Small()
    larger.module = torch.nn.Linear(DIM + 1, DIM)
    with pytest.raises(RaylabError, match=r"cannot be read \(ValueError: Size mismatch .* of another model"):
        state_of(larger).load(checkpoints, 1)

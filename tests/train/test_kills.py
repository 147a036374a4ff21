"""A training process is killed (SIGKILL) while it saves; the same run goes on as if nothing had been."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from train.runs import prepared, small, train
from train.test_worker import losses
from train.training_store import Store

from raylab.storage import Folder
from raylab.train import checkpoint
from raylab.train.checkpoint import Checkpoints
from raylab.train.plan import CheckpointConfig, TrainConfig
from raylab.train.worker import Run, read_here, work

SAVES = 2
"""The second of the run's saves is not survived; each comes after so many steps."""


@dataclass
class Marker:
    """A `worker.Told` that does nothing."""

    def say(self, line: str) -> None: ...

    def point(self, step: int, point: dict) -> bool:
        return False

    def saved(self, step: int) -> None: ...

    def samples(self, pictures: list) -> None: ...


def _hang_before(call: Callable, at: int, sign: Path) -> Callable:
    """Return a function that leaves a sign at its `at`-th call, and waits for its end."""
    calls = [0]

    def waiting(*arguments: object, **named: object) -> object:
        calls[0] += 1
        if calls[0] == at:
            sign.touch()
            time.sleep(600)
        return call(*arguments, **named)

    return waiting


def _train(run: Run, where: str, sign: Path) -> None:
    """Train until the second save: until its files are there but not what lists them, or until it is whole."""
    if where == "files":
        checkpoint.dcp.FileSystemWriter.finish = _hang_before(  # type: ignore[method-assign]
            checkpoint.dcp.FileSystemWriter.finish, 2, sign
        )
    else:
        Folder.write_json = _hang_before(Folder.write_json, 2, sign)  # type: ignore[method-assign]
    work(run, read_here, Marker())


def kill_while_it_saves(config: TrainConfig, where: str, sign: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_train, args=(prepared(config), where, sign))
    process.start()
    deadline = time.monotonic() + 100
    while not sign.exists():
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.join()


@pytest.mark.parametrize("where", ["files", pytest.param("pointer", marks=pytest.mark.slow)])
def test_a_run_that_is_killed_while_it_saves_goes_on_from_the_checkpoint_before(
    where: str, store: Store, tmp_path: Path
) -> None:
    alone = losses(train(small("mofi_miniworld", store, tmp_path / "alone")))
    config = small("mofi_miniworld", store, tmp_path / "run", checkpoint=CheckpointConfig(every=SAVES))
    kill_while_it_saves(config, where, tmp_path / "now")
    folders = sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*"))
    assert folders == ["step-0000000002", "step-0000000004"]
    assert Checkpoints(Folder(config.out)).latest() == 2
    again = losses(train(config))
    assert again == {step: alone[step] for step in (3, 4, 5, 6)}
    assert Checkpoints(Folder(config.out)).latest() == 6
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*"))
    assert kept == ["step-0000000004", "step-0000000006"]

"""A run goes on with the other trainer; parameters and classes that are cut over a mesh are written whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from train.runs import prepared, train
from train.training_store import Store
from xla.small_runs import config_of, cpu_points, losses, on_xla

from raylab.errors import RaylabError
from raylab.train.loop import Curve
from raylab.train.worker import Run

pytest.importorskip("torch_xla", reason="torch-xla has an environment of its own: make test-xla")

STOPS, SAVED = 5, 3
"""A run is killed in this step, and its last checkpoint is of that one."""


class Killed(Exception):
    """Stands in for a kill."""


def kill(step: int, point: Curve) -> None:
    if step == STOPS:
        raise Killed


@pytest.fixture
def run(store: Store, tower: Path, tmp_path: Path) -> Run:
    """MOFI, sharded: it has a network and a table."""
    return prepared(config_of("mofi_miniworld", store, tower, tmp_path / "run", strategy="fsdp"))


@pytest.mark.timeout(600)
def test_a_run_goes_on_with_the_other_trainer(run: Run, tmp_path: Path) -> None:
    whole = losses(cpu_points(run))
    with pytest.raises(Killed):
        on_xla(run, kill)
    after_cpu = replace(run.config, out=str(tmp_path / "other"))
    with pytest.raises(Killed):
        train(after_cpu, kill)
    expected = {step: loss for step, loss in whole.items() if step > SAVED}
    assert losses(on_xla(replace(run, config=after_cpu)).points) == pytest.approx(expected, rel=1e-4)
    assert losses(train(run.config)) == pytest.approx(expected, rel=1e-4)


def test_parameters_and_moments_are_cut_over_the_mesh(run: Run) -> None:
    from torch_xla.distributed import spmd

    from raylab.train.accelerators import open_accelerator
    from raylab.train.accelerators.xla import is_cut
    from raylab.train.worker import build

    accelerator = open_accelerator("xla")
    learner, state = build(run, accelerator)
    accelerator.synchronise()
    matrices = [one for one in learner.module.parameters() if one.ndim > 1]
    assert matrices
    assert learner.table is not None
    for parameter in (*matrices, learner.table.weight):
        moments = [one[parameter] for one in (each.state for each in state.optimizers) if parameter in one]
        for tensor in (parameter, moments[0]["exp_avg"]):
            assert is_cut(tensor)
            shard = spmd.wrap_if_sharded(tensor).local_shards[0]
            assert shard.data.numel() < 0.3 * tensor.numel()
    host = state._state()
    assert is_cut(learner.table.weight)
    assert host["table"]["weight"].shape == learner.table.weight.shape
    assert all(value.device.type == "cpu" for value in host["model"].values())


def test_rows_that_cannot_be_shared_by_the_devices(run: Run) -> None:
    odd = replace(run, config=replace(run.config, batch=18))
    with pytest.raises(RaylabError, match=r"--batch 18 cannot be shared by 4 devices in 1 passes"):
        on_xla(odd)

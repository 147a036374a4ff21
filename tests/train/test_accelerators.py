"""Accelerators by name, what TPU hosts are told, and the class table's optimiser for gradients that are not sparse."""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from pathlib import Path

import cloudpickle
import pytest
import torch

import raylab
from raylab.errors import RaylabError
from raylab.models.class_table import ClassTable, ClassTableConfig
from raylab.train.accelerators import open_accelerator
from raylab.train.accelerators.run import _xla_scaling, environment, set_environment
from raylab.train.optim import OptimConfig, make_table_optimizer
from raylab.train.plan import ParallelConfig


def test_an_accelerator_that_is_not_known_names_the_nearest() -> None:
    with pytest.raises(RaylabError, match=r"'xlaa' is not known: auto, cpu, cuda, xla\. Did you mean 'xla'"):
        open_accelerator("xlaa")


@pytest.mark.skipif(find_spec("torch_xla") is not None, reason="torch-xla is here")
def test_xla_says_where_it_comes_from() -> None:
    with pytest.raises(RaylabError, match="torch-xla is not installed here: make setup-xla"):
        open_accelerator("xla")


def test_tasks_and_the_loop_know_of_no_kind_of_device() -> None:
    room = Path(raylab.__file__).parent
    known = re.compile(r"torch_xla|torch\.cuda|is_cuda|device\.type *(==|!=|in )|[\"'](xla|cuda)[\"']")
    files = [*(room / "tasks").rglob("*.py"), *(room / f"train/{name}.py" for name in ("loop", "held_out", "optim"))]
    assert [path.name for path in files if known.search(path.read_text())] == []
    assert known.search((room / "train/accelerators/cuda.py").read_text())


def test_hosts_of_one_slice_are_told_their_device_alone() -> None:
    assert environment(3, 4, 1, "10.0.0.1", tpu=True) == {"PJRT_DEVICE": "TPU"}
    assert environment(0, 1, 1, "10.0.0.1", tpu=False) == {"PJRT_DEVICE": "CPU"}


def test_hosts_of_several_slices_are_told_which_is_theirs() -> None:
    told = [environment(i, 8, 2, "10.0.0.1", tpu=True) for i in range(8)]
    assert [one["MEGASCALE_SLICE_ID"] for one in told] == ["0"] * 4 + ["1"] * 4
    assert {one["MEGASCALE_NUM_SLICES"] for one in told} == {"2"}
    assert {one["MEGASCALE_COORDINATOR_ADDRESS"] for one in told} == {"10.0.0.1"}


def test_workers_are_the_hosts_of_whole_slices() -> None:
    scaling = _xla_scaling(8, ParallelConfig(topology="4x4", tpu="TPU-V6E", cpus=2.0))
    assert scaling.resources_per_worker == {"CPU": 2.0, "TPU": 4}
    assert scaling.num_workers == 8
    with pytest.raises(RaylabError, match=r"--parallel.workers 3: .* multiple of 4"):
        _xla_scaling(3, ParallelConfig(topology="4x4", tpu="TPU-V6E"))
    with pytest.raises(RaylabError, match=r"--parallel.tpu 'v6' .*Invalid accelerator_type"):
        _xla_scaling(4, ParallelConfig(topology="4x4", tpu="v6"))


def test_on_a_cluster_no_run_takes_xlas_cpu_device_for_tpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(RaylabError, match=r"say which slices, such as --parallel\.topology 4x4"):
        _xla_scaling(1, ParallelConfig())


def test_what_a_worker_is_told_reaches_python_and_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Ray sends it: pickled."""
    monkeypatch.setenv("MEGASCALE_SLICE_ID", "0")
    send, told = cloudpickle.loads(cloudpickle.dumps((set_environment, {"MEGASCALE_SLICE_ID": "1"})))
    send(told)
    assert os.environ["MEGASCALE_SLICE_ID"] == "1"


def test_a_dense_gradient_moves_the_rows_that_a_sparse_one_does() -> None:
    tables = [ClassTable(50, 8, ClassTableConfig(negatives=10)) for _ in range(2)]
    tables[1].sparse = False
    optimizers = [make_table_optimizer(table, OptimConfig(table_rate=0.1)) for table in tables]
    before = tables[0].weight.detach().clone()
    for step in range(4):
        image_BD = torch.nn.functional.normalize(
            torch.randn(6, 8, generator=torch.Generator().manual_seed(step)), dim=1
        )
        for table, optimizer in zip(tables, optimizers):
            torch.manual_seed(step)
            table(image_BD, torch.arange(6) + step).backward()
            optimizer.step()
            optimizer.zero_grad()
    torch.testing.assert_close(tables[1].weight, tables[0].weight)
    moments = [optimizer.state[table.weight]["exp_avg_sq"] for table, optimizer in zip(tables, optimizers)]
    torch.testing.assert_close(moments[1], moments[0])
    moved = (tables[0].weight != before).any(1)
    assert 0 < moved.sum() < 50

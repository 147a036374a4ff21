"""What every task keeps to, whatever it learns."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from train.runs import MINIWORLD, prepared, small
from train.training_store import Store, make_store

from raylab.storage import Folder
from raylab.train.accelerators import open_accelerator
from raylab.train.examples import read_part
from raylab.train.order import generator
from raylab.train.worker import Run

ROWS = 6


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("tasks"), rows=24, parts=1)


@pytest.fixture(params=[*MINIWORLD, "git_codes"])
def run(request: pytest.FixtureRequest, store: Store, tmp_path: Path) -> Run:
    if request.param != "git_codes":
        return prepared(small(request.param, store, tmp_path))
    from dataclasses import replace

    config = small("git_miniworld", store, tmp_path)
    return prepared(replace(config, task=replace(config.task, codes=True)))


def some_rows(run: Run, collator: Any) -> pa.Table:
    rows, _ = read_part(Folder(run.config.labels), "labels/00000.parquet", collator)
    return rows.slice(0, ROWS)


def some_batch(run: Run) -> dict[str, np.ndarray]:
    collator = run.config.task.collator(run.context)
    arrays = collator(some_rows(run, collator), [generator(0, i) for i in range(ROWS)])
    size = collator.image.size
    return arrays | {"image_BHWC": np.random.default_rng(0).integers(0, 256, (ROWS, size, size, 3), dtype=np.uint8)}


def test_its_collator_travels_and_depends_on_rows_and_draws_alone(run: Run) -> None:
    collator = run.config.task.collator(run.context)
    rows = some_rows(run, collator)
    assert collator.usable(rows).tolist() == [True] * ROWS
    before = collator(rows, [generator(0, i) for i in range(ROWS)])
    again = pickle.loads(pickle.dumps(collator))(rows, [generator(0, i) for i in range(ROWS)])
    assert before.keys() == again.keys()
    for name, values in before.items():
        assert len(values) == ROWS
        np.testing.assert_array_equal(values, again[name])
    one = collator(rows.slice(2, 1), [generator(0, 2)])
    for name, values in before.items():
        np.testing.assert_array_equal(values[2:3], one[name])


def test_its_losses_reach_every_parameter_that_a_group_has(run: Run) -> None:
    torch.manual_seed(0)
    learner = run.config.task.learner(run.context)
    batch = open_accelerator("cpu").to_device(some_batch(run))
    losses = learner.losses(learner.module(*learner.inputs(batch)), batch)
    assert all(torch.isfinite(value).all() and value.ndim == 0 for value in losses.values())
    losses["loss"].backward()
    grouped = [parameter for group in learner.groups() for parameter in group.parameters]
    trained = [parameter for parameter in learner.module.parameters() if parameter.requires_grad]
    assert len({id(one) for one in grouped}) == len(grouped) == len(trained)
    assert all(parameter.grad is not None for parameter in trained)
    learner.after_step()


def test_it_says_something_of_each_picture(run: Run) -> None:
    learner = run.config.task.learner(run.context)
    learner.module.eval()
    said = learner.describe(open_accelerator("cpu").to_device(some_batch(run)))
    assert len(said) == ROWS
    assert all(said)


def test_activation_checkpointing_changes_no_gradient(run: Run) -> None:
    gradients = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        learner = run.config.task.learner(run.context)
        if checkpointed:
            learner.checkpoint_activations()
        batch = open_accelerator("cpu").to_device(some_batch(run))
        learner.losses(learner.module(*learner.inputs(batch)), batch)["loss"].backward()
        gradients.append([one.grad for one in learner.module.parameters() if one.grad is not None])
    for plain, again in zip(*gradients):
        torch.testing.assert_close(plain, again)
    assert learner.shard_units()

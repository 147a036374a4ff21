"""XLA's CPU device as a mesh of four, in the environment of `make setup-xla` alone; elsewhere tests are skipped."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest
from train.conftest import tower  # noqa: F401  (a fixture)
from train.training_store import Store, make_store
from xla.settings import settings

from raylab.train.accelerators import open_accelerator

if find_spec("torch_xla") is not None:
    os.environ |= settings(devices=4)


@pytest.fixture(scope="session", autouse=True)
def devices() -> None:
    """The mesh, before anything else: autograd counts the devices once, in a process's first backward pass."""
    if find_spec("torch_xla") is not None:
        open_accelerator("xla")


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """96 rows in 3 parts, all labels right."""
    return make_store(tmp_path_factory.mktemp("training"))

"""One small label store for the room's tests."""

from __future__ import annotations

import pytest
from train.training_store import Store, make_store


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """96 rows in 3 parts, all labels right."""
    return make_store(tmp_path_factory.mktemp("training"))

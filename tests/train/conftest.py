"""One small label store for the room's tests."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from train.training_store import Store, make_store

from raylab.sources.miniworld.make_clip import SHIPPED


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """96 rows in 3 parts, all labels right."""
    return make_store(tmp_path_factory.mktemp("training"))


@pytest.fixture
def tower(tmp_path: Path) -> Path:
    """See `make_tower`."""
    return make_tower(tmp_path)


def make_tower(parent: Path) -> Path:
    """Write the mini-world's CLIP with a small vision transformer: no batch statistics, which depend on the workers."""
    folder = parent / "tower"
    shutil.copytree(SHIPPED, folder)
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"]["vision_cfg"] = {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16}
    path.write_text(json.dumps(config))
    return folder

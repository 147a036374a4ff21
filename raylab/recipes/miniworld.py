"""What training runs on a laptop have in common: minutes on two cores."""

from __future__ import annotations

from typing import Any

from raylab.models.mae import VitConfig
from raylab.sources.base import SourceConfig
from raylab.train.optim import OptimConfig
from raylab.train.plan import CheckpointConfig, DataConfig, ParallelConfig, TrackConfig

MINIWORLD_VIT = VitConfig(name="vit_tiny_patch16_224", image_size=64, patch=8, width=96, layers=4, heads=4)
"""Of a quarter of the pictures' 64 patches it sees 16."""


def small(rows: str) -> dict[str, Any]:
    """Return the fields of such a run; `rows`: see `DataConfig.rows`."""
    return {
        "source": SourceConfig(uri="miniworld://?rows=2000&seed=7"),
        "steps": 300,
        "batch": 64,
        "accelerator": "cpu",
        "data": DataConfig(rows=rows, window_rows=5_000, task_rows=256),
        "optim": OptimConfig(rate=2e-3, table_rate=1e-2, warmup_steps=20),
        "parallel": ParallelConfig(threads=1),
        "checkpoint": CheckpointConfig(every=100),
        "track": TrackConfig(every=10),
    }

"""A generative recogniser of two training steps: it knows nothing, and all its ways can be seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from train.runs import prepared, small, train
from train.training_store import Store

from raylab.train.export import export
from raylab.train.plan import CheckpointConfig


def saved_git(store: Store, out: Path, *, codes: bool = False) -> Path:
    """Train and export one; return its run's folder."""
    config = small("git_miniworld", store, out, steps=2, batch=8, checkpoint=CheckpointConfig(every=2))
    config = replace(config, task=replace(config.task, codes=codes))  # type: ignore[type-var]
    train(config)
    export(prepared(config))
    return out

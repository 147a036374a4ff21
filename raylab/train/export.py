"""From a run's last checkpoint to the trained model as evaluation and prediction open it."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from raylab.errors import RaylabError
from raylab.storage import Folder
from raylab.train.checkpoint import Checkpoints
from raylab.train.worker import Run

MODEL = "model"
"""Folder below the run's."""


def export(run: Run) -> str:
    """Write the network of the last checkpoint, without table and optimiser, to the run's folder `MODEL`.

    Returns:
        Its URI.

    Raises:
        RaylabError: there is no checkpoint, or it is damaged.
    """
    out = Folder(run.config.out)
    with tempfile.TemporaryDirectory() as folder:
        write_model(run, Path(folder))
        _put(Path(folder), out)
    return f"{out.uri}/{MODEL}"


def write_model(run: Run, folder: Path) -> None:
    """Write the network of the last checkpoint to a folder of this host; see `export`."""
    out = Folder(run.config.out)
    checkpoints = Checkpoints(out)
    step = checkpoints.latest()
    if step is None:
        raise RaylabError(f"{out.uri} has no checkpoint: the run has made none yet.")
    torch.manual_seed(run.config.seed)
    learner = run.config.task.learner(replace(run.context, class_count=1))  # the table stays in the checkpoint
    state = learner.module.state_dict()
    checkpoints.load(step, {"model": state})
    learner.module.load_state_dict(state)
    learner.save(folder)


def _put(folder: Path, out: Folder) -> None:
    """Copy files into place, the model's own JSON last: a reader looks for it first."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    for path in sorted(files, key=lambda path: path.parent == folder and path.suffix == ".json"):
        out.put(path, f"{MODEL}/{path.relative_to(folder).as_posix()}")

"""A trial whose worker takes more memory than its host has: Ray's memory monitor kills it, for real.

    python -m tune.memory STORE OUT     # STORE: a `Store` as JSON

Everything is real: Ray with its monitor, a Ray Train run, the worker that is killed. Says what became of the trial.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray
import torch
from train.training_store import Store
from tune.small import sweep

from raylab.tasks.base import TaskContext
from raylab.tasks.mofi import MofiLearner, MofiTask
from raylab.train import run as training
from raylab.tune.trial import Trial

GIB = 2**30
ROOM, TAKEN = 7 * GIB, 8 * GIB
"""What the host still has for Ray, and what a pass of too many rows takes (bytes)."""


@dataclass(frozen=True)
class Greedy(MofiTask):
    """MOFI whose pass takes all the memory that there is where it has more than `most` rows."""

    most: int = 8

    def learner(self, context: TaskContext) -> MofiLearner:
        learner = super().learner(context)
        losses, most = learner.losses, self.most

        def greedy(outputs: Mapping[str, Any], batch: Mapping[str, Any]) -> dict[str, Any]:
            if torch.is_grad_enabled() and len(batch["image_BHWC"]) > most:
                held = np.ones(TAKEN, np.uint8)
                time.sleep(60)  # the monitor comes
                del held
            return losses(outputs, batch)

        learner.losses = greedy  # type: ignore[method-assign]
        return learner


def main(store: str, out: str) -> None:
    """Run one trial on a Ray whose memory ends a little above what is used now; print how it trained."""
    memory = psutil.virtual_memory()
    ends = str((memory.total - memory.available + ROOM) / memory.total)
    os.environ |= {"RAY_memory_usage_threshold": ends}
    made = sweep(Store(**json.loads(store)), Path(out))
    task = Greedy(**{**vars(made.train.task), "most": 8})
    train = replace(made.train, task=task, parallel=replace(made.train.parallel, max_failures=0))
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    trial = Trial(replace(made, train=train), "a", {}, training.run)
    last = False
    while not last:
        _, last = trial.look()
    print(json.dumps({"accumulate": trial.config.parallel.accumulate}))


if __name__ == "__main__":
    from tune import memory  # else Ray's workers would look for what is in __main__

    memory.main(*sys.argv[1:])

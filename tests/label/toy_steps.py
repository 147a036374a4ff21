"""Steps that need no model, for tests of what runs steps. Workers import this file, so it stands alone."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

import pyarrow as pa

from raylab.errors import RaylabError
from raylab.label.step import StepContext
from raylab.schema import Reason, alive, reject, set_column


@dataclass(frozen=True)
class Name:
    """Calls each row by the last digit of its key."""

    def build(self, context: StepContext):
        return self

    def __call__(self, batch: pa.Table) -> pa.Table:
        names = pa.array([f"e{key[-1]}" for key in batch["key"].to_pylist()])
        return set_column(set_column(batch, "entity_id", names), "entity_name", names)


@dataclass(frozen=True)
class Judge:
    """Rejects rows whose key ends in 9; breaks at one key, in one of several ways."""

    poison: str = ""
    how: str = "raise"

    def build(self, context: StepContext):
        if self.how == "build":
            raise RaylabError("there is no such model: install it")
        return self

    def __call__(self, batch: pa.Table) -> pa.Table:
        keys = batch.filter(alive(batch))["key"].to_pylist()
        if self.poison in keys:
            if self.how == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("poison")
        return reject(batch, "select", [Reason.LOW_SCORE if k[-1] == "9" else None for k in batch["key"].to_pylist()])

"""What a labeling step is: a frozen config that builds a plain class over Arrow batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from raylab.sources.base import SourceConfig


@dataclass(frozen=True)
class StepContext:
    """What a run gives every step that it builds."""

    kb: str
    """The knowledge base's folder."""
    source: SourceConfig
    """Where the pairs come from: the steps that look at images read them from there."""
    device: str = "cpu"
    """``cpu`` or ``cuda``."""


class Step(Protocol):
    """A labeling step.

    Called with a `FLOW` table (extra columns may follow) it returns the same rows in the same order with its columns
    filled in. Rows that carry a `reject_reason` pass untouched. It may raise for a whole batch: the runner then halves
    the batch until the row that raises stands alone, and counts that row as failed.
    """

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return `batch` with this step's columns filled in."""
        ...


class StepConfig(Protocol):
    """A step's settings, a frozen dataclass."""

    def build(self, context: StepContext) -> Step:
        """Load models, open the knowledge base, return the step. Runs once an actor.

        Raises:
            RaylabError: for anything that the user can put right (a model that is not installed, a missing file).
        """
        ...

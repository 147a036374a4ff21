"""Keep one bad row from taking its batch with it."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable
from typing import Protocol

import numpy as np
import pyarrow as pa

from raylab.errors import RaylabError
from raylab.label.step import Step
from raylab.schema import Reason, alive, reject, set_column

logger = logging.getLogger(__name__)

CRASHES_TO_CONDEMN = 2
"""A row is given up after its worker died this many times with that row alone in hand. One death may be chance (a node
that goes, somebody's kill); two on the very same row are not."""


class Ledger(Protocol):
    """Remembers what was begun and never ended, beyond the life of the process that did it."""

    def begin(self, key: str) -> int:
        """Note that work on `key` starts; return how often it was begun before without an end."""
        ...

    def end(self, key: str) -> None:
        """Forget `key`."""
        ...


class Clock:
    """Takes the time of some work, by the clock and on the cores: that of all threads of this process."""

    def __init__(self) -> None:
        """Start."""
        self._started = time.perf_counter(), time.process_time()

    def share(self, batch: pa.Table, name: str) -> pa.Table:
        """Return the batch with each row's share of the time until now, in the columns of the step `name`."""
        spent = time.perf_counter() - self._started[0], time.process_time() - self._started[1]
        for column, seconds in zip((f"seconds_{name}", f"cpu_{name}"), spent):
            shares = np.full(batch.num_rows, seconds / max(1, batch.num_rows), np.float32)
            batch = set_column(batch, column, pa.array(shares))
        return batch


class Isolated:
    """A step that survives its rows.

    Where the step raises, the batch is halved until the row that raises stands alone; that row is counted as failed
    with the exception's text, all others go on. Each row gets its share of the time spent in ``seconds_<name>``, and of
    the cores' time in ``cpu_<name>``: the second is the same however many others share the cores.

    Args:
        name: the step's name.
        step: what to call.
    """

    def __init__(self, name: str, step: Step) -> None:
        """Wrap `step`."""
        self.name = name
        self.step = step

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return the batch with the step's columns filled in, or the rows that broke it marked."""
        clock = Clock()
        result = self._try(batch)
        return clock.share(result, self.name)

    def _try(self, batch: pa.Table) -> pa.Table:
        try:
            return self._checked(batch)
        except (RaylabError, MemoryError):
            raise  # not a row's fault: the run cannot go on like this
        except Exception as error:
            if batch.num_rows == 1:
                return self._failed(batch, error)
            half = batch.num_rows // 2
            return pa.concat_tables([self._try(batch.slice(0, half)), self._try(batch.slice(half))])

    def _checked(self, batch: pa.Table) -> pa.Table:
        result = self.step(batch)
        if not result["row_id"].equals(batch["row_id"]):
            raise RaylabError(
                f"The step {self.name!r} added, dropped or moved rows: it must return those it was given."
            )
        return result.cast(batch.schema)

    def _failed(self, row: pa.Table, error: Exception) -> pa.Table:
        where = traceback.extract_tb(error.__traceback__)[-1]
        detail = f"{type(error).__name__}: {error} ({where.name}:{where.lineno})"
        logger.warning("row %s failed in %s: %s", row["row_id"][0], self.name, detail)
        return reject(row, self.name, [Reason.STEP_ERROR], [detail])


def survive(batch: pa.Table, stage: str, ledger: Ledger, work: Callable[[pa.Table], pa.Table]) -> pa.Table:
    """Do `work` on the batch even where a row kills the whole process (a native crash, memory).

    The first attempt takes the batch whole. If the process died in it, the next attempt goes row by row, and a row that
    was alone in hand at two deaths is marked `WORKER_CRASH` instead of being tried again.

    Args:
        batch: rows in flight.
        stage: the pool's name; attempts are counted per pool.
        ledger: survives this process.
        work: returns the same rows.
    """
    live = batch.filter(alive(batch))["row_id"]
    if not len(live):
        return work(batch)
    key = f"{stage}/{live[0]}/{live[-1]}/{batch.num_rows}"
    if not ledger.begin(key):
        result = work(batch)
    else:
        logger.warning("a worker died on a batch of %d rows in %s: now row by row", batch.num_rows, stage)
        rows = (batch.slice(i, 1) for i in range(batch.num_rows))
        result = pa.concat_tables([_survive_row(row, stage, ledger, work) for row in rows])
    ledger.end(key)
    return result


def _survive_row(row: pa.Table, stage: str, ledger: Ledger, work: Callable[[pa.Table], pa.Table]) -> pa.Table:
    key = f"{stage}/{row['row_id'][0]}"
    deaths = ledger.begin(key)
    if deaths >= CRASHES_TO_CONDEMN:  # never ended: the verdict stands when another row takes the batch down again
        detail = f"the worker process died {CRASHES_TO_CONDEMN} times with this row alone in hand"
        return work(reject(row, stage, [Reason.WORKER_CRASH], [detail]))
    result = work(row)
    ledger.end(key)
    return result

"""What is told of a sweep while it runs: a line a look, how many trials are at their end, the best so far, plots."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from threading import Thread
from typing import Any

from raylab.storage import Folder
from raylab.tune.plan import Sweep
from raylab.tune.results import END, FIRST, TRIAL, TRIALS, Objective, generations

logger = logging.getLogger(__name__)

LEAST_SECONDS = 60.0
"""Between two interim reports."""
MOST_SHARE = 0.02
"""Of the time that writing them may take."""
HOW = {"stopped": "ended early: others do better", "finished": "finished"}


class Interim:
    """Calls a function aside, now and then.

    Args:
        write: writes what is known so far. What it raises is told and ends nothing.
    """

    def __init__(self, write: Callable[[], object]) -> None:
        self._write = write
        self._thread: Thread | None = None
        self._next = 0.0

    def ask(self) -> None:
        """There is something new: write it, unless it was written a short while ago."""
        if (self._thread and self._thread.is_alive()) or time.monotonic() < self._next:
            return
        self._thread = Thread(target=self._work, name="interim", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        began = time.monotonic()
        try:
            self._write()
        except Exception as error:  # a disk that is full, a plot that cannot be drawn: the trials go on
            logger.warning("the interim report was not written: %s: %s", type(error).__name__, error)
        ended = time.monotonic()
        self._next = ended + max(LEAST_SECONDS, (ended - began) / MOST_SHARE)

    def close(self) -> None:
        """Wait for what is being written."""
        if self._thread:
            self._thread.join()


class Progress:
    """Takes what becomes of trials as it happens, tells people, and writes down which trials were stopped.

    Args:
        sweep: what they belong to.
        out: its folder.
        write: see `Interim`.
    """

    def __init__(self, sweep: Sweep, out: Folder, write: Callable[[], object]) -> None:
        self._out, self._objectives, self._trials = out, sweep.objectives, sweep.trials
        self._has_own = sweep.first is not None
        self._begun: set[str] = set()
        self._values: dict[str, float] = {}
        self._ended: Counter[str] = Counter()
        self._best: tuple[float, str] | None = None
        self._interim = Interim(write)

    def begun(self, name: str, values: dict[str, Any]) -> None:
        """A trial begins, or goes on. Its values become those of its folder: a population's may be others by now."""
        if name not in self._begun:
            self._begun.add(name)
            values.update(self._noted(name))
        text = ", ".join(f"{field} {_short(value)}" for field, value in values.items())
        own = " (the recipe's own)" if self._has_own and name == FIRST else ""
        logger.info("trial %s: %s%s", name, text or "the recipe as it is", own)

    def _noted(self, name: str) -> dict[str, Any]:
        before = generations(self._out, name)
        return self._out.read_json(f"{TRIALS}/{before[-1]}/{TRIAL}")["values"] if before else {}

    def looked(self, name: str, point: Mapping[str, Any]) -> None:
        """A trial was looked at."""
        values = ", ".join(f"{one.name} {_short(point.get(one.name))}" for one in self._objectives)
        logger.info("trial %s: step %d  %s", name, point["step"], values)
        self._values[name] = point.get(self._objectives[0].name, math.nan)
        self._interim.ask()

    def ended(self, name: str) -> None:
        """A trial is at its end; without a word of its own it was stopped."""
        folder = f"{TRIALS}/{generations(self._out, name)[-1]}"
        if not self._out.exists(f"{folder}/{END}"):
            self._out.write_json(f"{folder}/{END}", {"status": "stopped"})
        end = self._out.read_json(f"{folder}/{END}")
        self._ended[end["status"]] += 1
        if end["status"] == "finished":
            self._keep_best(name, self._objectives[0])
        how = HOW.get(end["status"], f"failed: {end.get('error')}")
        logger.info("trial %s %s\n  %s", name, how, self.line())
        self._interim.ask()

    def _keep_best(self, name: str, objective: Objective) -> None:
        value = self._values.get(name, math.nan)
        if not math.isnan(value) and (self._best is None or objective.better(value, self._best[0])):
            self._best = value, name

    def line(self) -> str:
        """Return how many trials are at their end, how they ended, and the best of those that finished."""
        ended = self._ended.total()
        how = ", ".join(f"{count} {status}" for status, count in sorted(self._ended.items()))
        best = "none finished yet"
        if self._best is not None:
            best = f"best so far {self._objectives[0].name} {_short(self._best[0])}, trial {self._best[1]}"
        return f"{ended} of {self._trials} trials at their end ({how}); {best}"

    def died(self, name: str, why: str, lacked_memory: bool = False) -> None:
        """A trial's process died too often: the next start tries it again, unless the host lacked memory."""
        folder = f"{TRIALS}/{generations(self._out, name)[-1]}"
        if not lacked_memory or self._out.exists(f"{folder}/{END}"):
            logger.warning("trial %s died: %s", name, why)
            return
        error = f"Out of memory, the host's: its memory monitor killed the trial's own process. {why}"
        self._out.write_json(f"{folder}/{END}", {"status": "failed", "error": error})
        self.ended(name)

    def close(self) -> None:
        """Wait for what is being written."""
        self._interim.close()


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)

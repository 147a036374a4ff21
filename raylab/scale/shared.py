"""A resource that its jobs share evenly: a node's cores, its GPUs, its network link (processor sharing)."""

from __future__ import annotations

import heapq
import math
from typing import Any


class Shared:
    """Runs jobs side by side, each at the rate ``min(1, capacity / jobs)``: as an operating system shares out cores.

    All jobs get the same rate, so one clock of work done a job ("virtual time") tells which ends next, and no job's
    remainder has to be touched when another one comes or goes (processor sharing: Parekh and Gallager, 1993).

    Args:
        capacity: jobs that run at full speed at once; fractions are a share of one.
    """

    def __init__(self, capacity: float) -> None:
        """Start idle, at time 0."""
        self.capacity = capacity
        self.busy = 0.0
        """Seconds of work done so far."""
        self._at = self._virtual = 0.0
        self._ends: list[tuple[float, int, Any]] = []
        self._count = 0

    def _rate(self) -> float:
        return min(1.0, self.capacity / len(self._ends)) if self._ends else 0.0

    def _advance(self, now: float) -> None:
        done = (now - self._at) * self._rate()
        self._virtual += done
        self.busy += done * len(self._ends)
        self._at = now

    def add(self, now: float, work: float, job: Any) -> None:
        """Start a job that takes `work` seconds alone."""
        self._advance(now)
        self._count += 1
        heapq.heappush(self._ends, (self._virtual + work, self._count, job))

    def next_end(self) -> float:
        """Return when the next job ends if no other comes; infinity where none runs."""
        if not self._ends:
            return math.inf
        return self._at + max(0.0, self._ends[0][0] - self._virtual) / self._rate()

    def pop(self, now: float) -> Any:
        """End the job that `next_end` spoke of, at that time, and return it."""
        self._advance(now)
        return heapq.heappop(self._ends)[2]

    def clear(self, now: float) -> list[Any]:
        """End all jobs without their being done, since the machine is gone; return them."""
        self._advance(now)
        jobs = [job for _, _, job in self._ends]
        self._ends.clear()
        return jobs

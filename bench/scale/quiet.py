"""Notes how it goes, and waits for a machine that does nothing else."""

from __future__ import annotations

import sys
import time

import psutil

QUIET, PATIENCE_S = 0.12, 20.0
"""A run starts when less than this share of the cores is busy, or when this time has passed."""


def note(*words: object) -> None:
    """Tell on standard error how it goes."""
    print(time.strftime("%H:%M:%S"), *words, file=sys.stderr, flush=True)


def settled() -> float:
    """Wait until nothing else works on the cores, for a while at most; return what share of them is busy."""
    deadline = time.monotonic() + PATIENCE_S
    while (busy := psutil.cpu_percent(interval=2.0) / 100) > QUIET and time.monotonic() < deadline:
        pass
    return round(busy, 2)


def busy_s() -> float:
    """Return the core seconds that the whole machine has worked: what a run did not, others did."""
    times = psutil.cpu_times()
    return times.user + times.nice + times.system + times.softirq

"""A ledger that kills the engine when it hears of certain requests: it lives in the engine's own actor."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import psutil

from raylab.label.isolate import CRASHES_TO_CONDEMN
from raylab.label.run import RemoteLedger


class DeadlyLedger(RemoteLedger):
    """Ends vLLM's core process by SIGKILL, or the whole actor.

    Args:
        strikes: from a key and how often it was begun before: "core", "actor" or nothing.
    """

    def __init__(self, strikes: Callable[[str, int], str]) -> None:
        super().__init__()
        self._strikes = strikes

    def begin(self, key: str) -> int:
        before = super().begin(key)
        match self._strikes(key, before):
            case "core":
                for core in engine_cores(os.getpid()):
                    core.send_signal(signal.SIGKILL)
            case "actor":
                os.kill(os.getpid(), signal.SIGKILL)
        return before


def first_time(batch_begins_with: int, victim: str = "core") -> Callable[[str, int], str]:
    """Strike once: when the batch that begins with this row is first in hand."""
    return lambda key, before: victim if key.startswith(f"batch/0/{batch_begins_with}/") and not before else ""


def each_time(row: int) -> Callable[[str, int], str]:
    """Strike whenever this row is sent alone, and the first time in company (its batch begins with it)."""
    in_company, alone = first_time(row), f"request/0/{row}/"
    return lambda key, before: (
        in_company(key, before) or ("core" if key.startswith(alone) and before < CRASHES_TO_CONDEMN else "")
    )


def engine_cores(ancestor: int) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(ancestor).children(recursive=True):
        try:
            if "EngineCore" in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found

"""The contract of a check, and what it finds. Knows no Ray."""

from __future__ import annotations

import enum
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late
from dataclasses import dataclass, field
from threading import Thread
from typing import Any

from raylab.preflight.asked import Asked

PATIENCE_S = 25.0
"""For a look, as for everything else that a check does: libraries of storage try for minutes by themselves."""


class Level(enum.StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"

    @classmethod
    def worst(cls, levels: Sequence[Level]) -> Level:
        """Return the worst of some, ok of none."""
        return max(levels, key=list(cls).index, default=cls.OK)


@dataclass(frozen=True)
class Finding:
    """A line of the table."""

    check: str
    level: Level
    seen: str
    way_out: str = ""
    """What to do about it; empty where all is well."""


@dataclass(frozen=True)
class Task:
    """What a check is told on each host."""

    asked: Asked
    probe: str
    """Folder below the run's for files that tell whether hosts see each other's."""
    host: str
    """The host's name among `Cluster.nodes`; ``driver`` on the driver's."""


@dataclass(frozen=True)
class Cluster:
    """What only the driver can tell."""

    nodes: Mapping[str, Mapping[str, float]]
    """Node -> what Ray says that it has: CPU, GPU, TPU, object_store_memory (bytes), ..."""
    is_own: bool = False
    """It is a Ray of this process on this machine."""
    elsewhere: bool = False
    """Nodes that are not there yet will do the work."""
    most: Mapping[str, float] = field(default_factory=dict)
    """What it has or can grow to; infinite where it can grow and nobody can tell to what."""
    refused: str = ""
    """What a training job would say of its accelerators before it starts."""
    token: bool = True
    """Requests without a token are refused."""
    skews: Mapping[str, float] = field(default_factory=dict)
    """Node -> seconds that its clock is ahead of the driver's."""
    upload_bytes: int = 0
    """What ``ray job submit --working-dir .`` would send from here."""
    upload_limit: int = 0
    """Above this Ray refuses it."""


@dataclass(frozen=True)
class Failed:
    """What stands for a look that raised."""

    error: str


@dataclass(frozen=True)
class Seen:
    """What a check judges."""

    task: Task
    """The driver's."""
    cluster: Cluster
    driver: Any
    """What `Check.look` returned on the driver's host."""
    nodes: Mapping[str, Any]
    """The same of each node."""

    @property
    def asked(self) -> Asked:
        """What the job asks for."""
        return self.task.asked


class Check:
    """One thing that would fail later. To add one, write a class with `judge`, and put it into `checks.CHECKS`."""

    name = ""
    """As the table calls it."""
    way_out = ""
    """What to do where a look raises, and else where `judge` says nothing better."""
    patience_s = PATIENCE_S
    """Seconds for its look."""

    def applies(self, asked: Asked) -> bool:
        """Tell whether the job has anything to do with it."""
        return True

    def prepare(self, task: Task) -> None:
        """Do something on the driver before any host looks."""

    def look(self, task: Task) -> Any:
        """Return what is to be seen on this host; plain values. What it raises is a failure of the check there."""
        return None

    def judge(self, seen: Seen) -> Finding:
        """Say what it comes to; no look has raised."""
        raise NotImplementedError

    def finish(self, task: Task) -> None:
        """Clear away what was prepared."""

    def ok(self, seen: str) -> Finding:
        """All is well."""
        return Finding(self.name, Level.OK, seen)

    def warn(self, seen: str, way_out: str = "") -> Finding:
        """It may fail, or be slow."""
        return Finding(self.name, Level.WARN, seen, way_out or self.way_out)

    def fail(self, seen: str, way_out: str = "") -> Finding:
        """It will fail."""
        return Finding(self.name, Level.FAIL, seen, way_out or self.way_out)


def looks(checks: Sequence[Check], task: Task) -> dict[str, Any]:
    """Look on this host, all checks at a time: check's name -> what it saw, or `Failed`."""
    started = time.monotonic()
    running = {check: begin(check.look, task) for check in checks}
    return {
        check.name: ended(look, check.patience_s - (time.monotonic() - started), check.patience_s)
        for check, look in running.items()
    }


def begin(work: Callable[..., Any], *arguments: Any) -> Future[Any]:
    """Do something in a thread that may be left behind: whoever waits for a dead server waits long."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(work(*arguments))
        except Exception as error:  # whatever libraries, disks and networks raise: that is what is looked for
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future


def ended(work: Future[Any], seconds: float, patience_s: float = PATIENCE_S) -> Any:
    """Return what came of it, or `Failed` where it raised or did not end in time."""
    try:
        return work.result(max(0.0, seconds))
    except Late as error:
        return failed(error) if work.done() else Failed(f"no answer within {patience_s:g} s")
    except Exception as error:  # see `begin`
        return failed(error)


def failed(error: Exception) -> Failed:
    """Return an exception as what was seen."""
    text = " ".join(str(error).split())[:300]
    return Failed(text if type(error).__name__ == "RaylabError" else f"{type(error).__name__}: {text}")


def judge(check: Check, seen: Seen) -> Finding:
    """Return what a check comes to, also where a look of it raised."""
    broken = {name: one.error for name, one in {"driver": seen.driver, **seen.nodes}.items() if isinstance(one, Failed)}
    if broken:
        return check.fail(together(broken))
    found = ended(begin(check.judge, seen), PATIENCE_S)  # it looks at storage too
    return check.fail(found.error) if isinstance(found, Failed) else found


def together(said: Mapping[str, str]) -> str:
    """Return what was said of each host, those of which the same was said together."""
    hosts = defaultdict(list)
    for host, text in said.items():
        hosts[text].append(host)
    return "; ".join(f"{_named(names)}: {text}" for text, names in hosts.items())


def nodes_of(count: int) -> str:
    """Return ``1 node`` or ``3 nodes``."""
    return f"{count} node" if count == 1 else f"{count} nodes"


def _named(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{names[0]}, {names[1]} and {len(names) - 2} more"

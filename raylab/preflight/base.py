"""The contract of a check, and what it finds. Knows no Ray."""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raylab.preflight.asked import Asked


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
    """Look on this host: check's name -> what it saw, or `Failed`."""
    return {check.name: _look(check, task) for check in checks}


def _look(check: Check, task: Task) -> Any:
    try:
        return check.look(task)
    except Exception as error:  # whatever libraries, disks and networks raise: that is what is looked for
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
    try:
        return check.judge(seen)
    except Exception as error:  # it looks at storage too
        return check.fail(failed(error).error)


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

"""How many trials a cluster has room for at a time: more would take each other's place, and none might get its own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raylab.errors import RaylabError

Resources = Mapping[str, float]
"""Ray's name of a resource -> how much of it."""


@dataclass(frozen=True)
class Needs:
    """What a trial takes of a cluster."""

    workers: int
    worker: Resources
    """Of each of its workers, which lies on one node."""
    rest: Resources
    """Beside these: its own process with its validation, what reads, its TPU slices."""

    def __getitem__(self, name: str) -> float:
        """Return how much it takes in all."""
        return self.rest.get(name, 0.0) + self.workers * self.worker.get(name, 0.0)

    @property
    def names(self) -> list[str]:
        """What it takes anything of."""
        return [name for name in {**self.worker, **self.rest} if self[name] > 0]


def fits(needs: Needs, has: Resources) -> int:
    """Return how many trials fit what a cluster has in all; its nodes' bounds are not seen.

    Raises:
        RaylabError: not one.
    """
    for name in needs.names:
        if has.get(name, 0.0) < needs[name]:
            raise RaylabError(
                f"A trial needs {needs[name]:g} {name}s and this cluster has {has.get(name, 0.0):g}: take fewer "
                "--parallel.workers, less --parallel.cpus or --parallel.gpus, or a larger cluster."
            )
    return min(_times(has[name], needs[name]) for name in needs.names)


def fits_nodes(needs: Needs, nodes: Sequence[Resources]) -> int:
    """Return for how many trials' workers these nodes have room: a worker is never cut in two.

    Raises:
        RaylabError: not for one trial's.
    """
    room = sum(_workers(needs.worker, node) for node in nodes)
    if room < needs.workers:
        asked = ", ".join(f"{value:g} {name}s" for name, value in needs.worker.items() if value > 0)
        raise RaylabError(
            f"A trial has {needs.workers} workers of {asked} each, and the nodes of this cluster have room for {room}: "
            "take fewer --parallel.workers, less --parallel.cpus or --parallel.gpus, or larger nodes."
        )
    return room // needs.workers


def _workers(worker: Resources, node: Resources) -> int:
    """Return how many workers fit a node; a part of a GPU is of one GPU."""
    asked = {name: value for name, value in worker.items() if value > 0}
    gpus = asked.get("GPU", 0.0)
    if 0 < gpus < 1:
        asked.pop("GPU")
        most = int(node.get("GPU", 0.0)) * _times(1.0, gpus)
        return min([most, *(_times(node.get(name, 0.0), value) for name, value in asked.items())])
    return min(_times(node.get(name, 0.0), value) for name, value in asked.items())


def _times(has: float, needed: float) -> int:
    return math.floor(has / needed + 1e-9)

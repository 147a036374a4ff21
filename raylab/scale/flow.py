"""The simulator: rows in parcels through pools of actors on nodes, from the first process to the last report.

A small event loop of our own. What it has to know, cores shared by more jobs than there are, is in `shared`, 40 lines;
a framework of coroutines (simpy) has first-come queues in place of shared cores, and would be one more dependency.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from raylab.scale.shared import Shared
from raylab.scale.work import Phase, StageWork

MOST_PARCELS = 20_000
"""Rows travel in parcels: a batch, or more where there would be more batches than this."""
PARCELS_AN_ACTOR = 2
"""Parcels that wait for each actor of a stage before those above it pause, as Ray Data's actor pools have it."""


@dataclass(frozen=True)
class Node:
    """A machine that runs actors."""

    cores: float
    gpus: float = 0.0
    gpu: str = ""
    """The kind of its GPUs."""
    link: float = math.inf
    """Bytes/s."""
    ready_s: float = 0.0
    """When it joins, in seconds after the job's start."""
    losses_per_s: float = 0.0
    """How often it is lost, as a rate; a replacement joins after `ready_s`."""


@dataclass
class Outcome:
    """How a phase went."""

    seconds: float
    ready_s: float
    """When the first actor of the last stage had its models."""
    first_s: float
    """When the first parcel had passed all stages."""
    last_s: float
    """When the last one had."""
    rows: list[int]
    """Rows that each stage finished, reading first. All are the same, whatever was lost on the way."""
    busy: list[float]
    """Core (or, on GPUs, device) seconds that each stage spent, reading first; work that was lost is included."""
    losses: int


@dataclass
class _Parcel:
    rows: int


@dataclass(eq=False)
class _Actor:
    stage: int
    node: int
    parcel: _Parcel | None = None
    left: int = 0
    """Resources that still work on the parcel."""
    alive: bool = True


def simulate(  # noqa: PLR0917
    phase: Phase,
    nodes: Sequence[Node],
    placed: Sequence[Sequence[int]],
    rows: int,
    head_cores: float = 0.0,
    seed: int = 0,
) -> Outcome:
    """Run `rows` rows through a phase.

    Args:
        phase: what a row costs.
        nodes: the workers.
        placed: for the read tasks and then for each stage, actors on each node [stages + 1][nodes].
        rows: rows of the phase.
        head_cores: cores of a head that only the driver uses; 0: the driver shares the first node's.
        seed: of the losses.

    Returns:
        When what happened.
    """
    return _Simulation(phase, nodes, placed, rows, head_cores, seed).run()


class _Simulation:
    def __init__(  # noqa: PLR0917
        self,
        phase: Phase,
        nodes: Sequence[Node],
        placed: Sequence[Sequence[int]],
        rows: int,
        head_cores: float,
        seed: int,
    ) -> None:
        self.phase, self.nodes, self.placed = phase, nodes, placed
        self.works: tuple[StageWork, ...] = (phase.read, *phase.stages)
        here = [not head_cores and index == 0 for index in range(len(nodes))]
        self.cores = [Shared(phase.usable(node.cores, driver=own)) for node, own in zip(nodes, here)]
        self.head = Shared(max(head_cores / 10, head_cores - phase.driver_share)) if head_cores else self.cores[0]
        self.gpus = [Shared(max(1e-9, node.gpus / self._copy_gpus())) for node in nodes]
        self.links = [Shared(1.0) for _ in nodes]
        self.draw = random.Random(seed)
        self.now, self.losses = 0.0, 0
        self.events: list[tuple[float, int, str, Any]] = []
        self.count = 0
        self.foreseen: dict[Shared, int] = {}
        self.actors: list[list[_Actor]] = [[] for _ in nodes]
        self.idle: list[deque[_Actor]] = [deque() for _ in self.works]
        self.blocked: list[deque[_Actor]] = [deque() for _ in self.works]
        self.queues: list[deque[_Parcel]] = [deque() for _ in self.works]
        self.room = [max(1, PARCELS_AN_ACTOR * sum(row)) for row in placed]
        self.unread = self._parcels(rows)
        self.done = [0] * len(self.works)
        self.busy = [0.0] * len(self.works)
        self.wanted, self.ready, self.first, self.last = rows, math.inf, math.inf, 0.0
        self.pending = self.starting = 0
        """Work of the driver and of Ray that nobody waits for, until the end."""
        steps = ("end", "begin", "started", "join", "loaded", "ready", "part", "aside", "lose")
        self.handle: dict[str, Callable[[Any], None]] = {name: getattr(self, f"_{name}") for name in steps}

    def _copy_gpus(self) -> float:
        return max((one.gpus_a_copy for one in self.works if one.on_gpu), default=1.0)

    def _parcels(self, rows: int) -> Iterator[_Parcel]:
        size = max(*(one.batch_rows for one in self.works), math.ceil(rows / MOST_PARCELS))
        for start in range(0, rows, size):
            yield _Parcel(min(size, rows - start))

    # -- events

    def at(self, when: float, what: str, of: Any) -> None:
        self.count += 1
        heapq.heappush(self.events, (when, self.count, what, of))

    def give(self, shared: Shared, work: float, job: tuple[str, Any]) -> None:
        shared.add(self.now, work, job)
        self.watch(shared)

    def watch(self, shared: Shared) -> None:
        """Foresee the next end of a resource; what was foreseen before its jobs changed does not count any more."""
        self.foreseen[shared] = self.foreseen.get(shared, 0) + 1
        if (ends := shared.next_end()) < math.inf:
            self.at(ends, "end", (shared, self.foreseen[shared]))

    def aside(self, shared: Shared, work: float) -> None:
        """Give work that nobody waits for before the end."""
        if work:
            self.pending += 1
            self.give(shared, work, ("aside", None))

    def _aside(self, _: None) -> None:
        self.pending -= 1

    def run(self) -> Outcome:
        self.at(self.phase.start_wait_s, "begin", None)
        while self.done[-1] < self.wanted or self.pending:
            self.now, _, what, of = heapq.heappop(self.events)
            self.handle[what](of)
        end = self.phase.end_s(self.wanted) / min(1.0, self.head.capacity)
        return Outcome(self.now + end, self.ready, self.first, self.last, self.done, self.busy, self.losses)

    def _end(self, of: tuple[Shared, int]) -> None:
        shared, foreseen = of
        if self.foreseen[shared] == foreseen:
            what, job = shared.pop(self.now)
            self.watch(shared)
            self.handle[what](job)

    def _begin(self, _: None) -> None:
        self.starting = 2
        self.give(self.head, self.phase.start_cpu_s, ("started", None))
        self.give(self.head, self.phase.start_ray_s, ("started", None))

    def _started(self, _: None) -> None:
        self.starting -= 1
        if self.starting:
            return
        for index, node in enumerate(self.nodes):
            self.at(max(self.now, node.ready_s), "join", index)

    def _join(self, index: int) -> None:
        """A node is there: its actors start, all at once."""
        for stage, row in enumerate(self.placed):
            for _ in range(row[index]):
                actor = _Actor(stage, index)
                self.actors[index].append(actor)
                self.give(self.cores[index], self.works[stage].start_cpu_s, ("loaded", actor))
        if self.nodes[index].losses_per_s:
            self.at(self.now + self.draw.expovariate(self.nodes[index].losses_per_s), "lose", index)

    def _loaded(self, actor: _Actor) -> None:
        self.at(self.now + self.works[actor.stage].start_wait_s, "ready", actor)

    def _ready(self, actor: _Actor) -> None:
        if actor.alive:
            if actor.stage + 1 == len(self.works):
                self.ready = min(self.ready, self.now)
            self.idle[actor.stage].append(actor)
            self._move()

    def _lose(self, index: int) -> None:
        """A node goes: what its actors had in hand is done again, and a new node takes its place."""
        self.losses += 1
        for shared in (self.cores[index], self.gpus[index], self.links[index]):
            lost = shared.clear(self.now)
            self.pending -= sum(what == "aside" for what, _ in lost)
            self.watch(shared)
        for actor in self.actors[index]:
            actor.alive = False
            if actor.parcel is not None:
                self.queues[actor.stage].appendleft(actor.parcel)
        for waiting in (*self.idle, *self.blocked):
            for actor in [one for one in waiting if not one.alive]:
                waiting.remove(actor)
        self.actors[index] = []
        self.at(self.now + self.nodes[index].ready_s, "join", index)
        self._move()

    # -- rows

    def _move(self) -> None:
        """Give parcels to idle actors, the last stage first: what it takes makes room above it."""
        for stage in reversed(range(len(self.works))):
            idle = self.idle[stage]
            while idle and (parcel := self._take(stage)) is not None:
                self._work(idle.popleft(), parcel)

    def _take(self, stage: int) -> _Parcel | None:
        if self.queues[stage]:
            parcel = self.queues[stage].popleft()
            if stage and self.blocked[stage - 1]:
                self._hand_on(self.blocked[stage - 1].popleft())
            return parcel
        return next(self.unread, None) if stage == 0 else None

    def _work(self, actor: _Actor, parcel: _Parcel) -> None:
        """Start on a parcel: cores, GPU and link work at once, as the step reads and decodes ahead."""
        work, node, rows = self.works[actor.stage], actor.node, parcel.rows
        actor.parcel = parcel
        gpu_s = work.gpu_s.get(self.nodes[node].gpu, 0.0) / work.gpus_a_copy
        link_s = work.link_bytes / self.nodes[node].link
        parts = [(self.cores[node], work.cpu_s), (self.gpus[node], gpu_s), (self.links[node], link_s)]
        parts = [(shared, seconds * rows) for shared, seconds in parts if seconds] or [(self.cores[node], 0.0)]
        actor.left = len(parts)
        self.busy[actor.stage] += rows * (gpu_s * work.gpus_a_copy if work.on_gpu else work.cpu_s)
        for shared, seconds in parts:
            self.give(shared, seconds, ("part", actor))

    def _part(self, actor: _Actor) -> None:
        actor.left -= 1
        if actor.left:
            return
        if actor.stage + 1 < len(self.works) and len(self.queues[actor.stage + 1]) >= self.room[actor.stage + 1]:
            self.blocked[actor.stage].append(actor)
            return
        self._hand_on(actor)
        self._move()

    def _hand_on(self, actor: _Actor) -> None:
        """The parcel is done here and goes to the next stage's queue; behind the last, the driver commits it."""
        parcel, stage = actor.parcel, actor.stage
        assert parcel is not None
        actor.parcel = None
        self.idle[stage].append(actor)
        self.done[stage] += parcel.rows
        if stage + 1 < len(self.works):
            self.queues[stage + 1].append(parcel)
            return
        self.first, self.last = min(self.first, self.now), self.now
        self.aside(self.head, self.phase.driver_s * parcel.rows)

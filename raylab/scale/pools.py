"""Which resource ends a phase's speed, and the pools and machines that follow from it.

All limits are rows/s, each one resource over what a row takes of it; the smallest is the bottleneck. At that rate each
pool gets the actors that it needs, so that no stage is slower than the bottleneck and none is much faster.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from raylab.errors import RaylabError
from raylab.scale.cluster import Cluster, NodeType
from raylab.scale.work import Phase, StageWork

READ_CPUS = 0.5
"""What Ray reserves for a read task (`session.READ_CPUS`)."""
COMMIT_THREADS = 4
"""Segments that the driver merges at once (`label.store.THREADS`)."""
HEADROOM = 1.1
"""Pools are this much faster than the bottleneck: rows are not alike."""
SPARE = 0.995
"""Machines without which a phase keeps this share of its speed are left out."""


@dataclass(frozen=True)
class Limit:
    """What a resource allows."""

    what: str
    rows_per_s: float


@dataclass(frozen=True)
class Pool:
    """The actors of a stage."""

    stage: str
    on_nodes: tuple[int, ...]
    """Actors on each node."""
    num_cpus: float
    num_gpus: float

    @property
    def actors(self) -> int:
        """All of them."""
        return sum(self.on_nodes)


@dataclass(frozen=True)
class Fit:
    """A phase on a cluster."""

    limits: tuple[Limit, ...]
    """Those of the whole cluster, the smallest first."""
    workers: tuple[NodeType, ...]
    """What it uses of them, by count."""
    nodes: tuple[NodeType, ...]
    """The same, one a machine."""
    pools: tuple[Pool, ...]
    """Read tasks first."""

    @property
    def bottleneck(self) -> Limit:
        """What to have more of."""
        return self.limits[0]


def fit(phase: Phase, cluster: Cluster) -> Fit:
    """Return the bottleneck of a phase, the machines that it can use, and its pools.

    Raises:
        RaylabError: no machine can run one of the stages.
    """
    everything = {one.name: one.count for one in cluster.workers}
    found = limits(phase, cluster, everything)
    counts = _trimmed(phase, cluster, everything)
    workers = tuple(replace(one, count=counts[one.name]) for one in cluster.workers if counts[one.name])
    nodes = tuple(replace(one, count=1) for one in workers for _ in range(one.count))
    return Fit(tuple(found), workers, nodes, _pools(phase, nodes, _allowed(phase, cluster, counts)))


def limits(phase: Phase, cluster: Cluster, counts: Mapping[str, int]) -> list[Limit]:
    """Return what each resource allows, the smallest first; what nothing is known of holds nothing back."""
    nodes = [(one, counts[one.name]) for one in cluster.workers]
    core_s = phase.core_s + (0.0 if cluster.head else phase.driver_s)
    cores = sum(phase.usable(one.cores) * count for one, count in nodes) - (0.0 if cluster.head else phase.driver_share)
    found = [Limit(_cores(phase), cores / core_s if core_s else math.inf)]
    if cluster.head and phase.driver_s:
        found.append(Limit("driver: commits on the head", min(cluster.head.cores, COMMIT_THREADS) / phase.driver_s))
    for stage in (phase.read, *phase.stages):
        if stage.on_gpu:
            found += _on_gpu(phase, stage, nodes)
        elif stage.link_bytes:
            link = sum(one.link * count for one, count in nodes if count)
            found.append(Limit(f"network: {stage.name}", link / stage.link_bytes))
    return sorted((one for one in found if one.rows_per_s < math.inf), key=lambda one: one.rows_per_s)


def _cores(phase: Phase) -> str:
    """Name the cores by the stage that needs most of them."""
    most = max((phase.read, *phase.stages), key=lambda one: one.cpu_s)
    share = most.cpu_s / phase.core_s if phase.core_s else 0.0
    return f"cores: {most.name} takes {share:.0%} of them"


def _on_gpu(phase: Phase, stage: StageWork, nodes: Sequence[tuple[NodeType, int]]) -> list[Limit]:
    """Return what the GPUs allow a stage, and what the cores and links beside them do."""
    mine = [(one, count) for one, count in nodes if one.gpu in stage.gpu_s and one.gpus >= stage.gpus_a_copy]
    if not mine:
        raise RaylabError(f"{stage.name} needs {stage.gpus_a_copy:g} GPUs on one node, and no node type has them.")
    names = ("GPUs", "cores beside the GPUs", "network of the GPU nodes")
    sums, held = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    for one, count in mine:
        copies = one.gpus // stage.gpus_a_copy * stage.gpus_a_copy if not stage.shares_gpu else one.gpus
        resources = (copies, phase.usable(one.cores), one.link)
        takes = (stage.gpu_s[one.gpu], stage.cpu_s, stage.link_bytes)
        rates = {name: has / needs if needs else math.inf for name, has, needs in zip(names, resources, takes)}
        slowest = min(names, key=lambda name: rates[name])
        held[slowest] += count * rates[slowest]
        for name in names:
            sums[name] += count * rates[name] if count else 0.0
    most = max(names, key=lambda name: held[name])  # the resource that holds most of these nodes back
    sums[most] = sum(held.values())
    return [Limit(f"{name}: {stage.name}", rate) for name, rate in sums.items()]


def _trimmed(phase: Phase, cluster: Cluster, counts: dict[str, int]) -> dict[str, int]:
    """Leave out machines that add nothing, the last types of the file first."""
    best = limits(phase, cluster, counts)[0].rows_per_s
    for one in reversed(cluster.workers):
        low, high = 0, counts[one.name]
        while low < high:
            middle = (low + high) // 2
            tried = counts | {one.name: middle}
            enough = any(tried.values()) and _allowed(phase, cluster, tried) >= SPARE * best
            low, high = (low, middle) if enough else (middle + 1, high)
        counts = counts | {one.name: low}
    return counts


def _allowed(phase: Phase, cluster: Cluster, counts: Mapping[str, int]) -> float:
    return limits(phase, cluster, counts)[0].rows_per_s


# -- actors


def _pools(phase: Phase, nodes: Sequence[NodeType], rate: float) -> tuple[Pool, ...]:
    """Place actors: those on GPUs where the GPUs are, the others where cores are left."""
    free = [max(1, int(one.cores)) for one in nodes]
    on_gpu = {stage.name: _beside_gpus(stage, nodes, rate, free) for stage in phase.stages if stage.on_gpu}
    on_cores = [stage for stage in phase.stages if not stage.on_gpu]
    wanted = _shared_out(on_cores, sum(free), rate)
    placed = {stage.name: _spread(count, free) for stage, count in zip(on_cores, wanted)}
    placed |= on_gpu
    used = [sum(row[index] for row in placed.values()) for index in range(len(nodes))]
    cpus = min(_cpus(one.cores, count) for one, count in zip(nodes, used) if count)
    readers = min(sum(max(1, int(one.cores)) for one in nodes), max(1, math.ceil(rate * phase.read.cpu_s * HEADROOM)))
    pools = [Pool(phase.read.name, tuple(_spread(readers, [10**9] * len(nodes))), READ_CPUS, 0.0)]
    for stage in phase.stages:
        gpus = _gpus_an_actor(stage, nodes, placed[stage.name])
        pools.append(Pool(stage.name, tuple(placed[stage.name]), cpus, gpus))
    return tuple(pools)


def _cpus(cores: float, actors: int) -> float:
    """Return the CPUs that each of a node's actors reserves, so that a read task still finds its own there."""
    return math.floor(100 * max(cores - READ_CPUS, cores / 2) / max(actors, int(cores), 1)) / 100


def _beside_gpus(stage: StageWork, nodes: Sequence[NodeType], rate: float, free: list[int]) -> list[int]:
    """Return the actors of a GPU stage on each node: one a copy, or as many as the work beside the GPU needs."""
    row = [0] * len(nodes)
    mine = [i for i, one in enumerate(nodes) if one.gpu in stage.gpu_s and one.gpus >= stage.gpus_a_copy]
    power = {i: nodes[i].gpus / max(stage.gpu_s[nodes[i].gpu], 1e-12) for i in mine}
    for i in mine:
        copies = int(nodes[i].gpus // stage.gpus_a_copy)
        if stage.shares_gpu:
            needed = math.ceil(rate * HEADROOM * power[i] / sum(power.values()) * stage.cpu_s)
            copies = max(copies, min(needed, free[i]))
        row[i] = copies
        free[i] = max(0, free[i] - copies)
    return row


def _shared_out(stages: Sequence[StageWork], free: int, rate: float) -> list[int]:
    """Give the free cores to the stages, always one more to the slowest, until all keep pace with the bottleneck."""
    actors = [1] * len(stages)
    speeds = [1 / max(stage.cpu_s, 1e-12) for stage in stages]
    while sum(actors) < free and stages:
        slowest = min(range(len(stages)), key=lambda i: actors[i] * speeds[i])
        if actors[slowest] * speeds[slowest] >= HEADROOM * rate:
            break
        actors[slowest] += 1
    return actors


def _spread(count: int, free: list[int]) -> list[int]:
    """Place actors one by one on the node with most room; where there is none, on the first ones."""
    row = [0] * len(free)
    for _ in range(count):
        node = max(range(len(free)), key=lambda i: (free[i], -row[i]))
        row[node] += 1
        free[node] -= 1
    return row


def _gpus_an_actor(stage: StageWork, nodes: Sequence[NodeType], row: Sequence[int]) -> float:
    if not stage.on_gpu:
        return 0.0
    if not stage.shares_gpu:
        return stage.gpus_a_copy
    share = min(one.gpus / count for one, count in zip(nodes, row) if count)
    return math.floor(1e4 * share) / 1e4

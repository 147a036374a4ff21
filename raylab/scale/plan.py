"""What `jobs/size.py` is asked, and its answer as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raylab.errors import RaylabError
from raylab.label.plan import LabelConfig
from raylab.scale import flow, model, pools, training
from raylab.scale.cluster import Cluster, NodeType, parse_nodes, parse_prices, read_cluster
from raylab.scale.rates import Rates, load
from raylab.scale.work import Phase, StageWork

BLOCK_BYTES = 2**20
"""Least bytes of a block (`streams.BLOCK_BYTES`)."""


@dataclass(frozen=True)
class SizeConfig:
    """A run to size: which recipe, how many rows, on which machines."""

    recipe: str
    """What runs."""
    rows: float = 1e6
    """Rows to label. 1e8 is a number, too."""
    cluster: str = ""
    """A file of `ray up` or a KubeRay RayCluster; all of its workers may be used, up to their max_workers."""
    nodes: str = ""
    """Instead of a file: 1x2CPU, or 4x16CPU,2x16CPU+1L4."""
    types: tuple[str, ...] = ()
    """Of the cluster's node types only these."""
    rates: str = ""
    """A finished labeling run of yours, whose rates count; or a file in the form of raylab/scale/rates.toml."""
    price: tuple[str, ...] = ()
    """NODETYPE=PRICE of an hour, such as gpu=0.55. Types without one are not counted."""
    losses: float = 0.0
    """Spot machines: how often one is lost, a machine and hour. 0.05: each 20 hours."""
    steps: int = 0
    """Training: steps; 0: the recipe's."""
    batch: int = 0
    """Training: rows a step; 0: the recipe's."""
    seed: int = 0
    """Of the losses."""
    json: bool = False
    """Print one JSON object instead of the table."""


def check(config: SizeConfig) -> None:
    """Raise `RaylabError` for a line that makes no sense."""
    if bool(config.cluster) == bool(config.nodes):
        raise RaylabError("Give either --cluster FILE or --nodes 4x16CPU,2x16CPU+1L4.")
    if config.rows < 1 or config.losses < 0 or config.steps < 0 or config.batch < 0:
        raise RaylabError("--rows must be 1 or more, --losses, --steps and --batch 0 or more.")


def cluster_of(config: SizeConfig) -> Cluster:
    """Return the machines that a line names.

    Raises:
        RaylabError: see `read_cluster`, `parse_nodes`; there are no workers.
    """
    prices = parse_prices(config.price)
    found = read_cluster(config.cluster, prices) if config.cluster else parse_nodes(config.nodes, prices)
    found = found.only(config.types)
    if not found.workers:
        raise RaylabError(f"{found.said} has no workers.")
    return found


# -- labeling


def size_labels(config: SizeConfig, job: LabelConfig) -> dict[str, Any]:
    """Simulate a labeling or annotation run.

    Returns:
        Plain values: ``phases`` (bottleneck, limits, pools, machines, seconds), hours, cost, bytes, the line to start.

    Raises:
        RaylabError: see `check`, `cluster_of`, `rates.load`, `model.phases`, `pools.fit`.
    """
    check(config)
    cluster = cluster_of(config)
    rates = load(config.recipe, config.rates)
    found, flags = [], []
    for phase in model.phases(job, rates, cluster):
        fit = pools.fit(phase, cluster)
        found.append(_phase(config, phase, fit, cluster, rates))
        flags += _flags(fit)
    hours = sum(one["hours"] for one in found)
    return {
        "recipe": config.recipe,
        "rows": int(config.rows),
        "cluster": cluster.said,
        "rates": rates.said,
        "phases": found,
        "hours": hours,
        **_money([(one["machines"], one["hours"]) for one in found], cluster, hours),
        "read_bytes": config.rows * (rates.sizes.pair + rates.sizes.image),
        "stored_bytes": config.rows * rates.sizes.out,
        "line": f"python jobs/label.py --recipe {config.recipe} {' '.join(flags)}",
        "assumed": _assumptions(rates, model.gpu_types(cluster)),
    }


def simulated(phase: Phase, fit: pools.Fit, cluster: Cluster, rates: Rates, config: SizeConfig) -> flow.Outcome:
    """Run the phase's rows through its pools."""
    boot = rates.fixed.boot_s if cluster.grows else 0.0
    nodes = [
        flow.Node(one.cores, one.gpus, one.gpu, one.link, boot, config.losses / 3600 if one.spot else 0.0)
        for one in fit.nodes
    ]
    head = cluster.head.cores if cluster.head else 0.0
    rows = max(1, round(config.rows * phase.rows_share))
    return flow.simulate(phase, nodes, [pool.on_nodes for pool in fit.pools], rows, head, config.seed)


def _phase(config: SizeConfig, phase: Phase, fit: pools.Fit, cluster: Cluster, rates: Rates) -> dict[str, Any]:
    outcome = simulated(phase, fit, cluster, rates, config)
    rows = max(outcome.rows)
    works = (phase.read, *phase.stages)
    return {
        "phase": phase.name,
        "rows": rows,
        "bottleneck": fit.bottleneck.what,
        "rows_per_s": rows / max(1e-9, outcome.last_s - outcome.ready_s),
        "limits": {one.what: one.rows_per_s for one in fit.limits},
        "pools": [
            {
                "stage": pool.stage,
                "actors": pool.actors,
                "num_cpus": pool.num_cpus,
                "num_gpus": pool.num_gpus,
                "on": _where(pool, fit),
                "busy": spent / (_power(work, pool, fit) * max(1e-9, outcome.last_s)),
                "batch_rows": work.batch_rows,
            }
            for pool, spent, work in zip(fit.pools, outcome.busy, works)
        ],
        "machines": {one.name: one.count for one in fit.workers},
        "start_s": outcome.ready_s,
        "work_s": outcome.last_s - outcome.ready_s,
        "end_s": outcome.seconds - outcome.last_s,
        "hours": outcome.seconds / 3600,
        "losses": outcome.losses,
        "object_store_bytes": _object_store(phase, fit),
    }


def _power(work: StageWork, pool: pools.Pool, fit: pools.Fit) -> float:
    """Return what a pool works with: GPUs, else its actors, a core each."""
    if not work.on_gpu:
        return pool.actors
    return sum(node.gpus for node, count in zip(fit.nodes, pool.on_nodes) if count)


def _where(pool: pools.Pool, fit: pools.Fit) -> dict[str, int]:
    found: dict[str, int] = {}
    for node, count in zip(fit.nodes, pool.on_nodes):
        found[node.name] = found.get(node.name, 0) + count
    return {name: count for name, count in found.items() if count}


def _object_store(phase: Phase, fit: pools.Fit) -> float:
    """Return what blocks take on the fullest node: for each actor one in hand and those that wait for it."""
    held = [0.0] * len(fit.nodes)
    for stage, pool in zip(phase.stages, fit.pools[1:]):
        block = max(BLOCK_BYTES, stage.batch_rows * stage.in_bytes)
        for node, count in enumerate(pool.on_nodes):
            held[node] += count * block * (1 + flow.PARCELS_AN_ACTOR)
    return max(held)


def _flags(fit: pools.Fit) -> list[str]:
    found = []
    for pool in fit.pools[1:]:
        if pool.stage == "annotator":
            found += [f"--annotator.min-actors {pool.actors} --annotator.max-actors {pool.actors}"]
            continue
        name = f"--pools.{pool.stage.partition('+')[0]}"
        found += [f"{name}.min-actors {pool.actors} {name}.max-actors {pool.actors} {name}.num-cpus {pool.num_cpus:g}"]
        found += [f"{name}.num-gpus {pool.num_gpus:g}"] if pool.num_gpus else []
    return found


def _money(used: Sequence[tuple[dict[str, int], float]], cluster: Cluster, hours: float) -> dict[str, Any]:
    """Return the cost of machines, the head's included; None where a price is missing, with the types that lack one."""
    priced: dict[str, NodeType] = {one.name: one for one in cluster.workers}
    spent = [(priced[name], count * each) for machines, each in used for name, count in machines.items()]
    spent += [(cluster.head, hours)] if cluster.head else []
    lacking = sorted({one.name for one, _ in spent if one.price is None})
    cost = None if lacking else sum((one.price or 0.0) * machine_hours for one, machine_hours in spent)
    said = sorted({f"{one.name} {one.price:g} ({one.price_said})" for one, _ in spent if one.price is not None})
    return {"cost": cost, "prices": said, "no_price": lacking}


def _assumptions(rates: Rates, workers: Sequence[NodeType]) -> list[str]:
    found = list(rates.assumed)
    kinds = {one.gpu for one in workers if one.gpu in rates.devices}
    found += [f"{kind}: {rates.devices[kind].tflops:g} TFLOP/s ({rates.devices[kind].by})" for kind in sorted(kinds)]
    if kinds:
        found.append(
            f"a model gets {rates.use['infer']:.0%} of that in inference, {rates.use['train']:.0%} in training"
        )
    return found


# -- training


def size_training(config: SizeConfig, steps: int, batch: int) -> dict[str, Any]:
    """Return images/s, hours and cost of a training run of so many steps.

    Raises:
        RaylabError: see `training.speed`.
    """
    check(config)
    cluster = cluster_of(config)
    rates = load(config.recipe, config.rates if config.rates.endswith(".toml") else "")
    found = training.speed(config.recipe, rates, cluster)
    hours = steps * batch / found.rows_per_s / 3600
    machines = {one.name: one.count for one in found.workers}
    assert rates.training is not None
    return {
        "recipe": config.recipe,
        "steps": steps,
        "batch": batch,
        "cluster": cluster.said,
        "rates": f"{rates.said}; {rates.training.basis}: {rates.training.by}",
        "machines": machines,
        "bottleneck": found.bottleneck,
        "rows_per_s": found.rows_per_s,
        "device_rows_per_s": found.device_rows_per_s,
        "hours": hours,
        **_money([(machines, hours)], cluster, hours),
        "assumed": _assumptions(rates, found.workers),
    }

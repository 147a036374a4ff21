"""Labels on a cluster of raylets on this machine, each pinned to a core: three of them share two cores.

`python bench/scale` starts this file as a process of its own, for the cluster and its driver.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from quiet import settled
from runs import told

NODE_CPUS, ACTOR_CPUS = 3, 2
"""So that a node takes one actor, and read tasks beside it. They are slots, and not cores."""


def on_nodes(folder: Path, kb: str, rows: int, seed: int, nodes: int) -> dict[str, Any]:
    """Label on a cluster of so many raylets; it is up before the clock starts."""
    out = str(folder / f"nodes-{nodes}-{rows}-{seed}-{time.time_ns()}")
    line = [sys.executable, __file__, kb, out, str(rows), str(seed), str(nodes)]
    before = settled()
    done = subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    wall = float(done.stdout.splitlines()[-1])
    return told(out, rows, wall) | {"nodes": nodes, "busy_before": before}


def node_run(kb: str, out: str, rows: int, seed: int, nodes: int) -> None:
    """Start the cluster, label, print the seconds of the run alone."""
    import ray
    from ray.cluster_utils import Cluster

    from raylab.label.plan import Pool, Pools
    from raylab.label.run import run
    from raylab.recipes.label import miniworld
    from raylab.sources.base import SourceConfig

    every = {0} if nodes == 1 else {0, 1}
    pins = [{0}] if nodes == 1 else [{0}, {1}] if nodes == 2 else [{0, 1}] * nodes
    os.sched_setaffinity(0, every)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for pin in pins:
        os.sched_setaffinity(0, pin)
        cluster.add_node(num_cpus=NODE_CPUS)
    os.sched_setaffinity(0, every)
    ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
    pool = Pool(min_actors=nodes, max_actors=nodes, num_cpus=ACTOR_CPUS)
    config = replace(
        miniworld(),
        source=SourceConfig(uri=f"miniworld://?rows={rows}&seed={seed}"),
        kb=kb,
        out=out,
        shared_disk=True,
        pools=Pools(mentions=pool, select=Pool(join_previous=True)),
    )
    started = time.perf_counter()
    run(config)
    print(time.perf_counter() - started)
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    node_run(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))

"""A training run on a cluster of several nodes of this machine, which come and go."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import pickle
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from ray.cluster_utils import Cluster

from raylab.train.plan import TrainConfig

WORKER_CPUS = 2.0
NODE_CPUS = 3
"""Room for one worker, and for what reads."""


@dataclass
class Nodes:
    """A cluster whose first node has the driver and no room for workers."""

    cluster: Cluster
    others: dict[str, Any] = field(default_factory=dict)
    """Node id -> node."""

    def add(self) -> str:
        """Start a node with room for one worker; return its id."""
        node = self.cluster.add_node(num_cpus=NODE_CPUS, dashboard_agent_listen_port=None)
        self.others[node.node_id] = node
        return node.node_id

    def kill(self, node_id: str) -> None:
        """End a node's processes without a word."""
        self.cluster.remove_node(self.others.pop(node_id), allow_graceful=False)

    def host(self, besides: str = "") -> str:
        """Return the id of the node where the run's worker is."""
        for node_id, node in self.others.items():
            raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
            lines = [" ".join(process.cmdline()) for process in raylet.children(recursive=True)]
            if node_id != besides and any("RayTrainWorker" in line for line in lines):
                return node_id
        raise AssertionError("no worker is running")

    def drain(self, node_id: str, seconds: float) -> None:
        """Say that a node will go in so many seconds, as the autoscaler does when a spot node is called back."""
        from ray._raylet import GcsClient
        from ray.core.generated import autoscaler_pb2

        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        deadline_ms = int((time.time() + seconds) * 1000)
        accepted, why = GcsClient(address=self.cluster.address).drain_node(node_id, reason, "called back", deadline_ms)
        assert accepted, why


@contextmanager
def nodes(count: int) -> Iterator[Nodes]:
    """Start a cluster of so many nodes beside the first."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        found = Nodes(cluster)
        for _ in range(count):
            found.add()
        yield found
    finally:
        cluster.shutdown()


@contextmanager
def begun(config: TrainConfig, cluster: Nodes) -> Iterator[multiprocessing.process.BaseProcess]:
    """Start a run's driver on the first node; its lines go to `driver.log` in the run's folder."""
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    arguments = (pickle.dumps(config), cluster.cluster.address)
    process = multiprocessing.get_context("spawn").Process(target=_drive, args=arguments)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def _drive(pickled: bytes, address: str) -> None:
    from raylab.train.accelerators import run as trainers
    from raylab.train.run import run

    config: TrainConfig = pickle.loads(pickled)
    Path(config.out).mkdir(parents=True, exist_ok=True)
    logging.basicConfig(filename=f"{config.out}/driver.log", level=logging.INFO, format="%(message)s")
    os.environ["RAY_ADDRESS"] = address
    # Ray Train asks each minute whether there is room for other numbers of workers: a test has no minute
    trainers.ScalingConfig = partial(trainers.ScalingConfig, elastic_resize_monitor_interval_s=1.0)  # type: ignore
    run(config)


def finish(process: multiprocessing.process.BaseProcess, config: TrainConfig, seconds: float = 600) -> None:
    """Wait until a run ends well; fail with what it said otherwise."""
    process.join(seconds)
    assert process.exitcode == 0, f"{process.exitcode}\n{_log(config)[-4000:]}"


def wait(until: Callable[[], bool], process: multiprocessing.process.BaseProcess, seconds: float = 400) -> None:
    """Wait for something that a run does."""
    end = time.monotonic() + seconds
    while not until():
        assert process.is_alive(), "the run was over before"
        assert time.monotonic() < end, f"nothing after {seconds} s"
        time.sleep(0.05)


def saved(config: TrainConfig) -> int:
    """Return the step of the last checkpoint, 0 before the first."""
    pointer = Path(config.out) / "checkpoints" / "LAST.json"
    return json.loads(pointer.read_text())["step"] if pointer.exists() else 0


def _log(config: TrainConfig) -> str:
    path = Path(config.out) / "driver.log"
    return path.read_text() if path.exists() else ""


def starts(config: TrainConfig) -> list[tuple[int, int]]:
    """Return (workers, step) of each time that workers began."""
    found = re.findall(r"(\d+) workers begin at step (\d+)", _log(config))
    return [(int(workers), int(step)) for workers, step in found]


def shown(config: TrainConfig) -> int:
    """Return the last step that the driver told of."""
    return max(map(int, re.findall(r"^step (\d+)", _log(config), re.MULTILINE)), default=0)


def curve(config: TrainConfig) -> dict[int, float]:
    """Return the losses; a step that comes twice fails."""
    points = [json.loads(line) for line in (Path(config.out) / "curves.jsonl").read_text().splitlines()]
    assert len(points) == len({point["step"] for point in points})
    return {point["step"]: point["loss"] for point in points}

"""How far a cluster can grow: `python -m raylab.ceiling FILE ADDRESS`, which cluster/node.sh runs on a head, tells Ray.

Ray has a place for it, its `ClusterConfig`, from which Ray Train and Ray Data read too, but nothing in Ray 2.60 writes
it. The file is what `ray up` leaves on the head for its autoscaler. On Kubernetes nobody writes it.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import ray
import yaml
from ray._private.accelerators.tpu import get_total_chips_from_accelerator_type
from ray._private.state import state
from ray._raylet import RAY_NODE_GROUP_KEY, GcsClient  # type: ignore[attr-defined]
from ray.core.generated.autoscaler_pb2 import ClusterConfig  # type: ignore[attr-defined]


def described(file: dict[str, Any]) -> ClusterConfig:
    """Return the kinds of nodes of a cluster's file, with the most of each; the head counts as one of its kind."""
    config = ClusterConfig()
    for name, kind in file["available_node_types"].items():
        resources, hosts = _of_slice(dict(kind.get("resources", {})))
        most = kind.get("max_workers", file.get("max_workers", 0)) * hosts + (name == file["head_node_type"])
        whole = {key: int(value) for key, value in resources.items()}
        config.node_group_configs.add(name=name, max_count=most, resources=whole)
    return config


def _of_slice(resources: dict[str, float]) -> tuple[dict[str, float], int]:
    """Return what each host of a kind has, and how many hosts are started as one: those of a TPU slice.

    In the file a slice is one node whose resources are those of a host, with the slice's own name among them.
    """
    slices = [key for key in resources if key.startswith("TPU-") and key.endswith("-head")]
    if not slices:
        return resources, 1
    pod = slices[0].removeprefix("TPU-").removesuffix("-head")
    version = pod.partition("-")[0].upper()
    hosts = max(1, get_total_chips_from_accelerator_type(pod) // int(resources["TPU"]))
    return resources | {f"accelerator_type:TPU-{version}": 1}, hosts


def report(file: Path, address: str) -> None:
    """Write down at a cluster's head how far it can grow.

    Args:
        file: of `ray up`, as it lies on the head.
        address: the head's, as host:port.
    """
    config = described(yaml.safe_load(file.read_text()))
    GcsClient(address=address).report_cluster_config(config.SerializeToString())


def can_grow() -> bool:
    """Tell whether the cluster may get more nodes than it has now; a Ray that this process started stays as it is.

    Where nobody has written it down: whether its nodes are of a named kind, as an autoscaler's and KubeRay's are.
    """
    node: Any = ray._private.worker._global_node
    if node.is_head():
        return False
    alive = [node for node in ray.nodes() if node["Alive"]]
    config = state.get_cluster_config()
    if config is None:
        return any(node["Labels"].get(RAY_NODE_GROUP_KEY) for node in alive)
    return len(alive) < sum(group.max_count for group in config.node_group_configs)


def resource(name: str) -> float:
    """Return how much of a resource the cluster has, or can grow to; infinite where it can grow and nobody can tell."""
    now = ray.cluster_resources().get(name, 0.0)
    if not can_grow():
        return now
    config = state.get_cluster_config()
    groups = config.node_group_configs if config is not None else []
    if not all(group.resources for group in groups) or not groups:  # own machines: nobody knows before they join
        return math.inf
    return max(now, sum(group.max_count * group.resources.get(name, 0) for group in groups))


if __name__ == "__main__":
    report(Path(sys.argv[1]).expanduser(), sys.argv[2])

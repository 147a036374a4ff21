"""What machines there are: from a cluster file of `ray up` or KubeRay, or from a line: ``4x16CPU,2x16CPU+1L4``."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from raylab.errors import RaylabError, nearest

MACHINES = Path(__file__).with_name("machines.toml")
"""What is known of machine types: GPU, network, price; each with its source."""
GBIT = 1e9 / 8
_NODES = re.compile(r"(\d+)x(\d+(?:\.\d+)?)CPU(?:\+(\d+)([A-Za-z]\w*))?")


@dataclass(frozen=True)
class NodeType:
    """Machines of one kind."""

    name: str
    count: int
    """How many there may be."""
    cores: float
    gpus: int = 0
    gpu: str = ""
    """Their kind, such as ``L4``; of TPUs such as ``V6E``."""
    tpus: int = 0
    """Chips; they train, and do not label."""
    machine: str = ""
    """The cloud's name of it."""
    spot: bool = False
    link: float = math.inf
    """Bytes/s of its network; infinity where nothing is known."""
    price: float | None = None
    """Of an hour; None where nobody has told."""
    price_said: str = ""
    """Where the price is from."""


@dataclass(frozen=True)
class Cluster:
    """A head for drivers, and workers."""

    said: str
    """Where this is from."""
    workers: tuple[NodeType, ...]
    head: NodeType | None = None
    """None: the driver runs on the first worker."""
    grows: bool = False
    """Workers are started when a job asks for them."""

    def only(self, names: Sequence[str]) -> Cluster:
        """Return the cluster with some of its node types.

        Raises:
            RaylabError: there is no such type.
        """
        known = [one.name for one in self.workers]
        for name in names:
            if name not in known:
                raise RaylabError(
                    f"{self.said} has no node type {name!r}.{nearest(name, known)} Known: {', '.join(known)}."
                )
        return replace(self, workers=tuple(one for one in self.workers if one.name in names)) if names else self


def parse_nodes(text: str, prices: Mapping[str, float]) -> Cluster:
    """Return the cluster of a line: ``4x16CPU`` is four nodes of 16 cores, ``2x16CPU+1L4`` two with an L4 besides.

    A node type's name, as `prices` and `Cluster.only` know it, is what stands behind the first x.

    Raises:
        RaylabError: another form.
    """
    workers = []
    for part in text.split(","):
        found = _NODES.fullmatch(part.strip())
        if found is None or not int(found[1]) or not float(found[2]):
            raise RaylabError(f"--nodes {part!r} is not of the form 4x16CPU or 2x16CPU+1L4 (several with commas).")
        name = part.strip().partition("x")[2]
        workers.append(NodeType(name, int(found[1]), float(found[2]), int(found[3] or 0), found[4] or ""))
    return _priced(Cluster(f"--nodes {text}", tuple(workers)), prices)


def read_cluster(path: str, prices: Mapping[str, float]) -> Cluster:
    """Return the cluster of a file, with what `MACHINES` knows of its machine types.

    Args:
        path: a file of ``ray up`` or a KubeRay RayCluster.
        prices: node type -> price of an hour; they go before those of `MACHINES`.

    Raises:
        RaylabError: the file is missing or no cluster file, or lacks a key (named).
    """
    import yaml

    try:
        documents = [one for one in yaml.safe_load_all(Path(path).read_text()) if one]
    except OSError as error:
        raise RaylabError(f"--cluster {path}: {error.strerror}.") from error
    except yaml.YAMLError as error:
        raise RaylabError(f"--cluster {path} is no YAML: {error}") from error
    for document in documents:
        if isinstance(document, dict) and "available_node_types" in document:
            return _priced(_of_ray_up(path, document), prices)
        if isinstance(document, dict) and document.get("kind") == "RayCluster":
            return _priced(_of_kuberay(path, document), prices)
        if isinstance(document, dict) and _at(path, document, "provider", default={}).get("type") == "local":
            raise RaylabError(f"{path} does not say how many cores its machines have: give --nodes 3x16CPU instead.")
    raise RaylabError(f"{path} has neither available_node_types (ray up) nor kind: RayCluster (KubeRay).")


_MISSING: Any = object()


def _at(path: str, document: Any, *keys: str, default: Any = _MISSING) -> Any:
    """Return a value below a document; `RaylabError` names the key that is missing."""
    for depth, key in enumerate(keys):
        if not isinstance(document, dict) or key not in document:
            if default is not _MISSING:
                return default
            raise RaylabError(f"{path}: {'.'.join(keys[: depth + 1])} is missing.")
        document = document[key]
    return document


def _count(path: str, where: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if not number >= 0:
        raise RaylabError(f"{path}: {where} must be a number of 0 or more, not {value!r}.")
    return number


def _of_ray_up(path: str, document: dict[str, Any]) -> Cluster:
    types = _at(path, document, "available_node_types")
    head = _at(path, document, "head_node_type")
    if head not in types:
        raise RaylabError(f"{path}: head_node_type {head!r} is not in available_node_types: {', '.join(types)}.")
    most = int(_count(path, "max_workers", document.get("max_workers", 2)))
    workers = []
    for name in [name for name in types if name != head]:
        at = f"available_node_types.{name}"
        count = int(_count(path, f"{at}.max_workers", types[name].get("max_workers", most)))
        cores = _count(path, f"{at}.resources.CPU", _at(path, document, *at.split("."), "resources", "CPU"))
        resources, config = types[name]["resources"], types[name].get("node_config") or {}
        gpus, tpus = (int(_count(path, f"{at}.resources.{one}", resources.get(one, 0))) for one in ("GPU", "TPU"))
        found = replace(_typed(name, cores, config), count=min(count, most), gpus=gpus, tpus=tpus)
        most -= found.count
        hosts = _hosts(config, tpus)
        workers.append(replace(found, count=found.count * hosts, gpu=found.gpu if gpus or tpus else ""))
    own = _typed(head, 0.0, types[head].get("node_config") or {})
    own = replace(own, cores=_machine(own.machine).get("cores", 0.0))
    return Cluster(path, tuple(one for one in workers if one.count), own, grows=True)


def _hosts(config: Mapping[str, Any], tpus: int) -> int:
    """Return the hosts of a TPU slice, which Ray starts and counts as one; 1 for any other machine."""
    topology = (config.get("acceleratorConfig") or {}).get("topology", "")
    return math.prod(map(int, topology.split("x"))) // tpus if topology and tpus else 1


def _typed(name: str, cores: float, config: Mapping[str, Any]) -> NodeType:
    machine = config.get("InstanceType") or config.get("machineType")
    machine = machine or (config.get("acceleratorConfig") or {}).get("type") or ""
    market = (config.get("InstanceMarketOptions") or {}).get("MarketType", "")
    spot = market == "spot" or "spot" in str(config.get("scheduling", config.get("schedulingConfig", ""))).lower()
    known = _machine(machine)
    link = known["link_gbit"] * GBIT if "link_gbit" in known else math.inf
    return NodeType(name, 1, cores, gpu=known.get("gpu", ""), machine=machine, spot=spot, link=link)


def _of_kuberay(path: str, document: dict[str, Any]) -> Cluster:
    workers = []
    for group in _at(path, document, "spec", "workerGroupSpecs"):
        name = group.get("groupName", "?")
        containers = _at(path, group, "template", "spec", "containers")
        resources = containers[0].get("resources", {})
        asked = {**resources.get("limits", {}), **resources.get("requests", {})}
        where = f"spec.workerGroupSpecs.{name}.template.spec.containers.0.resources.requests.cpu"
        cores = _count(path, where, asked.get("cpu"))
        gpus, tpus = (int(_count(path, where, asked.get(one, 0))) for one in ("nvidia.com/gpu", "google.com/tpu"))
        labels = _at(path, group, "template", "spec", "nodeSelector", default={})
        gpu = str(labels.get("cloud.google.com/gke-accelerator", "")).removeprefix("nvidia-").upper() if gpus else ""
        spot = "cloud.google.com/gke-spot" in labels
        count = int(_count(path, f"spec.workerGroupSpecs.{name}.maxReplicas", group.get("maxReplicas", 0)))
        workers.append(NodeType(name, count, cores, gpus, gpu, tpus, spot=spot))
    return Cluster(path, tuple(one for one in workers if one.count), NodeType("head", 1, 4.0), grows=True)


def _machine(name: str) -> dict[str, Any]:
    return tomllib.loads(MACHINES.read_text())["machine"].get(name, {})


def _priced(cluster: Cluster, prices: Mapping[str, float]) -> Cluster:
    """Fill in prices: the user's, else those of the machine types."""
    nodes = [*cluster.workers, *([cluster.head] if cluster.head else [])]
    for name in prices:
        if name not in [one.name for one in nodes]:
            names = [one.name for one in nodes]
            raise RaylabError(f"--price names no node type of {cluster.said}: {name!r}.{nearest(name, names)}")
    found = []
    for one in nodes:
        known = _machine(one.machine)
        price, said = known.get("price"), known.get("price_from", "")
        if one.name in prices:
            price, said = prices[one.name], "--price"
        found.append(replace(one, price=price, price_said=said))
    count = len(cluster.workers)
    return replace(cluster, workers=tuple(found[:count]), head=found[count] if cluster.head else None)


def parse_prices(given: Sequence[str]) -> dict[str, float]:
    """Return node type -> price of an hour from ``NAME=PRICE`` words.

    Raises:
        RaylabError: another form.
    """
    found = {}
    for word in given:
        name, _, value = word.partition("=")
        found[name] = _count("--price", word, value if name else None)
    return found

"""Hours of a training run: rows a step over what the devices, and the cores beside them, get through."""

from __future__ import annotations

import math
from dataclasses import dataclass

from raylab.errors import RaylabError
from raylab.scale.cluster import Cluster, NodeType
from raylab.scale.model import device
from raylab.scale.rates import Rates, Training


@dataclass(frozen=True)
class Speed:
    """A training recipe on a cluster."""

    workers: tuple[NodeType, ...]
    """The machines that train."""
    rows_per_s: float
    bottleneck: str
    device_rows_per_s: float
    """Of one device; of one core, where there are no devices."""


def speed(recipe: str, rates: Rates, cluster: Cluster) -> Speed:
    """Return how fast a recipe trains: all machines with devices, else all cores.

    What workers tell each other (gradients, class embeddings) is taken to be hidden behind the backward pass.

    Raises:
        RaylabError: several kinds of devices (they would wait for the slowest), or no rate.
    """
    training = rates.training
    if training is None:
        raise RaylabError(f"There are no training rates for {recipe}.")
    workers = tuple(one for one in cluster.workers if one.gpus or one.tpus) or cluster.workers
    if len(kinds := {one.gpu for one in workers}) > 1:
        raise RaylabError(
            f"Training takes one kind of device, and here are {', '.join(sorted(kinds))}: choose by --types."
        )
    if workers[0].gpus or workers[0].tpus:
        return _on_devices(training, rates, workers)
    if not training.cpu_s:
        raise RaylabError(f"Nobody has measured {recipe} on cores: name a cluster with GPUs or TPUs.")
    cores = sum(one.cores * one.count for one in workers)
    each = training.cpu_s + training.host_s
    return Speed(workers, cores / each, "cores", 1 / each)


def _on_devices(training: Training, rates: Rates, workers: tuple[NodeType, ...]) -> Speed:
    each = device(workers[0], rates).tflops * 1e3 * rates.use["train"] / training.gflop
    devices = sum((one.gpus or one.tpus) * one.count for one in workers)
    cores = min(one.cores / (one.gpus or one.tpus) for one in workers)  # beside each device
    decode = cores / training.host_s if training.host_s else math.inf
    bottleneck = "devices" if each <= decode else "cores beside the devices"
    return Speed(workers, devices * min(each, decode), bottleneck, each)

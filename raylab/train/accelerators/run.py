"""How Ray Train starts the workers for each kind of device. Besides the rooms' own, a file at Ray's edge.

Ray's trainer for TPUs is JAX's, and its one for torch-xla is for other chips: `XlaConfig` does for torch-xla what
``ray/train/v2/jax/config.py`` does for JAX, as far as torch-xla does not do it itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray._private.accelerators.tpu import infer_tpu_pod_type_from_topology
from ray.train import RunConfig, ScalingConfig
from ray.train.backend import Backend, BackendConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.util.tpu import get_tpu_coordinator_env_vars, get_tpu_worker_resources

from raylab.errors import RaylabError
from raylab.session import on_cluster, resource
from raylab.train.plan import ParallelConfig, TrainConfig


def make_trainer(work: Callable[[], Any], config: TrainConfig, gpus: float, run_config: RunConfig) -> Any:
    """Return the trainer that runs `work` in each worker of a run.

    Args:
        work: what a worker does.
        config: the run.
        gpus: of a worker.
        run_config: see Ray Train.

    Raises:
        RaylabError: the workers do not fit the device.
    """
    parallel = config.parallel
    workers: Any = (parallel.workers, parallel.most_workers) if parallel.most_workers else parallel.workers
    if config.accelerator == "xla" or (config.accelerator == "auto" and not gpus and resource("TPU")):
        scaling, backend = _xla_scaling(workers, parallel), XlaConfig(tpu=bool(parallel.topology))
        return DataParallelTrainer(work, backend_config=backend, scaling_config=scaling, run_config=run_config)
    asked = {"CPU": parallel.cpus, "GPU": gpus}
    return TorchTrainer(
        work,
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpus > 0, resources_per_worker=asked),
        run_config=run_config,
    )


def _xla_scaling(workers: Any, parallel: ParallelConfig) -> ScalingConfig:
    """Whole slices where there is a topology; else one worker on XLA's CPU device."""
    asked = {"CPU": parallel.cpus}
    if not parallel.topology:
        if on_cluster() or resource("TPU"):
            raise RaylabError(
                "--accelerator xla on a cluster: say which slices, such as --parallel.topology 4x4 --parallel.tpu "
                "TPU-V6E --parallel.workers 4, a worker a host. XLA's CPU device is for a job's own Ray."
            )
        if workers != 1:
            raise RaylabError("--accelerator xla without a TPU: one worker alone; XLA's CPU devices do not talk.")
        return ScalingConfig(num_workers=1, resources_per_worker=asked)
    try:
        _, resources = get_tpu_worker_resources(parallel.topology, parallel.tpu, asked)
        return ScalingConfig(  # type: ignore[call-arg]
            num_workers=workers,
            use_tpu=True,
            topology=parallel.topology,
            accelerator_type=parallel.tpu,
            resources_per_worker=resources,
        )
    except ValueError as error:
        asked_for = f"--parallel.topology {parallel.topology} --parallel.tpu {parallel.tpu!r}"
        raise RaylabError(f"{asked_for} --parallel.workers {workers}: {error}") from error


def chips_of_worker(config: TrainConfig) -> float:
    """Return the TPU chips of a worker: those of a host of the slices; 0 where the run has no topology."""
    parallel = config.parallel
    if not parallel.topology:
        return 0.0
    _, resources = get_tpu_worker_resources(parallel.topology, parallel.tpu, {"CPU": parallel.cpus})
    return resources.get("TPU", 0.0)


def slices(config: TrainConfig) -> dict[str, float]:
    """Return the TPU slices of several hosts that a run takes, by the resource of which each slice has one."""
    parallel = config.parallel
    if not parallel.topology:
        return {}
    hosts, _ = get_tpu_worker_resources(parallel.topology, parallel.tpu, {"CPU": parallel.cpus})
    pod = infer_tpu_pod_type_from_topology(parallel.topology, parallel.tpu)
    return {f"TPU-{pod}-head": parallel.workers / hosts} if hosts > 1 else {}


@dataclass
class XlaConfig(BackendConfig):
    """torch-xla in Ray Train's workers.

    Args:
        tpu: the workers are the hosts of TPU slices.
    """

    tpu: bool = False

    @property
    def backend_cls(self) -> type[Backend]:
        """See ray.train.backend."""
        return XlaBackend


class XlaBackend(Backend):
    """Tells each worker its device, and libtpu which of several slices it is in, before torch-xla is imported."""

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """See ray.train.backend."""
        slices = worker_group.get_worker_group_context().num_slices if backend_config.tpu else 1
        first = worker_group.execute_single(0, ray.util.get_node_ip_address)
        settings = [
            environment(i, len(worker_group), slices, first, backend_config.tpu) for i in range(len(worker_group))
        ]
        ray.get([worker_group.execute_single_async(i, set_environment, one) for i, one in enumerate(settings)])


def set_environment(settings: dict[str, str]) -> None:
    """Set environment variables. A method of `os.environ` would change a copy: pickled, it takes its object along."""
    os.environ.update(settings)


def environment(worker: int, workers: int, slices: int, first: str, tpu: bool) -> dict[str, str]:
    """Return a worker's environment variables.

    What libtpu was told of slices before is overwritten: once one is replaced, it would wait for the one that is gone.

    Args:
        worker: its number; workers of a slice have numbers in a row.
        workers: in all.
        slices: in all.
        first: address of the first worker's node.
        tpu: whether there are TPUs.
    """
    device = {"PJRT_DEVICE": "TPU" if tpu else "CPU"}
    if slices == 1:
        return device
    return device | get_tpu_coordinator_env_vars(first, slices, worker // (workers // slices))

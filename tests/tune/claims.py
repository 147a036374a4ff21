"""A sweep on a cluster that only says that it has GPUs or TPU slices: what its trials' workers get of it, and when.

    python -m tune.claims KIND STORE OUT     # KIND: a key of CLUSTERS; STORE: a `Store` as JSON

Everything is real but the devices and the training: Ray Tune, a Ray Train run with its placement group a trial, and
the resources that Ray gives to each process. What workers had lies in trials/ID/claim-RANK.json, the rest in told.json.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster
from ray.train import RunConfig
from ray.train.backend import BackendConfig
from train.training_store import Store
from tune.small import sweep

from raylab.storage import Folder
from raylab.train.accelerators.run import make_trainer
from raylab.train.board import Pace
from raylab.train.plan import ParallelConfig, TrainConfig
from raylab.train.run import SUMMARY, gpus_of_worker
from raylab.tune import run as tuning
from raylab.tune.plan import ScheduleConfig, Sweep
from raylab.tune.trial import Trial

SECONDS = 2.0
"""Of a trial's training."""
HEADS = "TPU-v4-16-head"


def slice_node(number: int, host: int) -> dict[str, Any]:
    """Return a host of a TPU slice of two, as Ray finds it on such a machine."""
    name = f"slice-{number}"
    labels = {"ray.io/tpu-slice-name": name, "ray.io/tpu-worker-id": str(host), "ray.io/tpu-pod-type": "v4-16"}
    labels |= {"ray.io/tpu-topology": "2x2x2", "ray.io/accelerator-type": "TPU-V4"}
    resources = {"TPU": 4, "accelerator_type:TPU-V4": 1, name: 1} | ({HEADS: 1} if host == 0 else {})
    return {"num_cpus": 2, "resources": resources, "labels": labels, "env_vars": {"TPU_NAME": name}}


CLUSTERS: dict[str, list[dict[str, Any]]] = {
    "gpus": [{"num_cpus": 8, "num_gpus": 2}],
    "slices": [{"num_cpus": 4}, *(slice_node(number, host) for number in range(2) for host in range(2))],
    "small": [{"num_cpus": 2}],
}
PARALLEL = {
    "gpus": ParallelConfig(gpus=0.5),
    "slices": ParallelConfig(workers=2, topology="2x2x2", tpu="TPU-V4"),
    "small": ParallelConfig(),
}
ACCELERATORS = {"gpus": "cuda", "slices": "xla", "small": "cpu"}


def worker(out: str) -> None:
    """Be a worker: note what Ray gave, and hold it for a while."""
    context, began = ray.train.get_context(), time.time()
    time.sleep(SECONDS)
    about = ray.get_runtime_context()
    claim = {
        "resources": about.get_assigned_resources(),
        "gpus": about.get_accelerator_ids()["GPU"],
        "slice": about.get_node_labels().get("ray.io/tpu-slice-name"),
        "node": about.get_node_id(),
        "time": [began, time.time()],
    }
    Folder(out).write_json(f"claim-{context.get_world_rank()}.json", claim)


def train(config: TrainConfig, pace: Pace) -> dict[str, Any]:
    """Be `raylab.train.run.run`: with its workers, which do nothing."""
    out, parallel = Folder(config.out), config.parallel

    def work() -> None:
        worker(out.uri)

    make: Callable[..., Any] = make_trainer
    trainer = make(work, config, gpus_of_worker(config), RunConfig(storage_path=out.path("ray")))
    trainer.backend_config = BackendConfig()  # NCCL and libtpu would look for the devices
    trainer.fit()
    out.write_json("config.json", {"parallel": {"workers": parallel.workers}})
    pace.at(config.steps, {"held_out/text_top1": 0.5})
    out.write_json(SUMMARY, {"steps": config.steps})
    return {}


class ClaimingActor(tuning.TrialActor):
    """A trial's process whose training is `train`."""

    def _opened(self) -> Trial:
        if self._trial is None:
            self._trial = Trial(self._sweep, self._name, self._values, train)
        return self._trial


def claiming(kind: str, store: Store, out: Path) -> Sweep:
    """Return the sweep of a kind of cluster: three trials, more than it has room for."""
    validate_gpus = 0.25 if kind == "gpus" else 0.0
    rates = {"optim.rate": "loguniform(1e-4, 1e-2)"}
    made = sweep(store, out, space=rates, samples=3, schedule=ScheduleConfig("none", looks=1))
    made = replace(made, config=replace(made.config, validate_gpus=validate_gpus))
    if validate_gpus:
        made = replace(made, config=replace(made.config, validate=replace(made.config.validate, device="cuda")))
    return replace(
        made, train=replace(made.train, accelerator=ACCELERATORS[kind], parallel=PARALLEL[kind], shared_disk=True)
    )


def main(kind: str, store: str, out: str) -> None:
    """Start the cluster, run the sweep; write how many trials it has room for, and its summary."""
    cluster = Cluster()
    try:
        for node in CLUSTERS[kind]:
            cluster.add_node(**node)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        tuning.TrialActor = ClaimingActor  # type: ignore[misc]
        made = claiming(kind, Store(**json.loads(store)), Path(out))
        at_once = tuning.concurrent(made)
        summary = tuning.run(made)
        Path(out, "told.json").write_text(json.dumps({"at_once": at_once, "summary": summary}))
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    from tune import claims  # else Ray's workers would look for what is in __main__

    claims.main(*sys.argv[1:])

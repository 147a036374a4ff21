"""All checks on Ray: an actor on each node looks, the driver's host looks too, and the driver judges."""

from __future__ import annotations

import logging
import os
import socket
import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raylab.errors import RaylabError
from raylab.preflight import asked
from raylab.preflight.asked import Asked
from raylab.preflight.base import (
    Check,
    Cluster,
    Failed,
    Finding,
    Level,
    Seen,
    Task,
    begin,
    ended,
    failed,
    judge,
    looks,
    together,
)
from raylab.preflight.checks import CHECKS
from raylab.session import READ_CPUS, resource, session, works_elsewhere

PATIENCE_S = 120.0
"""A node that has not answered by then counts as one that fails."""
PINGS = 5
"""Times that a node is asked for the time; the quickest answer counts."""


KNOCK_S = 5.0
NO_CLUSTER = "is it up (ray status), is RAY_ADDRESS right, have both the same Ray and the same token?"
NO_WORKER = "this check and the job start from the head alone: once workers are up (ray status), check again"
LOST = "see its logs: ray logs --node-ip; raylab must be installed there, as on the driver"


class Eyes:
    """An actor on a node."""

    def now(self) -> float:
        """Return the time, in seconds since 1970."""
        return time.time()

    def look(self, checks: Sequence[Check], task: Task) -> dict[str, Any]:
        """Look at everything."""
        return looks(checks, task)


def asked_of(config: Any) -> Asked:
    """Return what a job's config asks for.

    Args:
        config: of a labeling, annotation, training or evaluation run, or a sweep.

    Raises:
        RaylabError: the job itself would refuse it.
    """
    from raylab.evaluate.plan import EvaluateConfig
    from raylab.label.plan import LabelConfig
    from raylab.tune.plan import Sweep

    if isinstance(config, Sweep):
        return _asked_of_sweep(config)
    if isinstance(config, LabelConfig):
        return _asked_of_labels(config)
    return _asked_of_evaluation(config) if isinstance(config, EvaluateConfig) else _asked_of_training(config)


def _asked_of_labels(config: Any) -> Asked:
    from raylab.annotate import plan as annotate
    from raylab.annotate import run as annotate_run
    from raylab.label import plan as label
    from raylab.label import run as label_run

    if isinstance(config, annotate.RewConfig):
        annotate.check(config)
        needs = [annotate_run.needed(config), label_run.needed(config)]
        return asked.of_label(config, *(max(one) for one in zip(*needs)))
    label.check(config)
    return asked.of_label(config, *label_run.needed(config))


def _asked_of_training(config: Any) -> Asked:
    from raylab.train.begin import completed
    from raylab.train.plan import check

    config = completed(config)
    check(config)
    return asked.of_train(config, READ_CPUS + config.parallel.workers * config.parallel.cpus)


def _asked_of_sweep(sweep: Any) -> Asked:
    """Return what one trial asks for: others wait for their turn."""
    from raylab.train.begin import completed
    from raylab.tune.plan import check

    sweep = replace(sweep, train=completed(sweep.train))
    check(sweep)
    return asked.of_sweep(_asked_of_training(sweep.train), sweep.config)


def _asked_of_evaluation(config: Any) -> Asked:
    from raylab.evaluate.plan import check

    check(config)
    cpus = READ_CPUS + config.workers * config.num_cpus if config.workers else 0.0
    return asked.of_evaluate(config, cpus, config.workers if config.device.startswith("cuda") else 0)


def run(wanted: Asked) -> list[Finding]:
    """Look at the cluster that a job would run on: that of RAY_ADDRESS, or else a Ray of this machine.

    Returns:
        A finding a check, in the order of `CHECKS`; first the nodes that could not look at all, if there are any.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    is_own = not (ray.is_initialized() or address)
    with ExitStack() as stack:
        try:
            _knock(address)
            stack.enter_context(session(0.0, worker_logs=False))
        except (OSError, RuntimeError, ValueError, RayError) as error:
            return [Finding("cluster", Level.FAIL, f"{address} {failed(error).error}".strip(), NO_CLUSTER)]
        return _check(wanted, is_own)


def _knock(address: str) -> None:
    """Raise OSError where nobody listens at a cluster's address: Ray itself would try for ten minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdecimal():  # it is not ``auto``
        socket.create_connection((host, int(port)), timeout=KNOCK_S).close()


def _check(wanted: Asked, is_own: bool) -> list[Finding]:
    wanted, refused = _on_this_cluster(wanted)
    task = Task(wanted, f"preflight-{uuid.uuid4().hex[:8]}", "driver")
    checks = [check for check in (one() for one in CHECKS) if check.applies(wanted)]
    findings = {check.name: found for check in checks if (found := _prepare(check, task))}
    looking = [check for check in checks if check.name not in findings]
    nodes = _nodes()
    with ThreadPoolExecutor(1) as aside:
        here = aside.submit(looks, looking, task)
        seen, skews, lost = _look_everywhere(looking, task, nodes)
    if seen:
        cluster = _cluster(nodes, is_own, skews, refused)
        for check in looking:
            there = {name: one[check.name] for name, one in seen.items()}
            findings[check.name] = judge(check, Seen(task, cluster, here.result()[check.name], there))
    for check in looking:
        _finish(check, task, findings)
    in_order = [findings[check.name] for check in checks if check.name in findings]
    return _of_nodes(nodes, lost) + in_order


def _of_nodes(nodes: Mapping[str, Mapping[str, Any]], lost: Mapping[str, str]) -> list[Finding]:
    """Say which nodes were not looked at."""
    if lost:
        return [Finding("nodes", Level.FAIL, together(lost), LOST)]
    if not any(node["Resources"].get("CPU") for node in nodes.values()):
        return [Finding("nodes", Level.WARN, "no worker is up; nothing was looked at there", NO_WORKER)]
    return []


def _on_this_cluster(wanted: Asked) -> tuple[Asked, str]:
    """Return what a training run asks for on this cluster, and why the job would refuse it; else what was asked."""
    config = wanted.train
    if config is None:
        return wanted, ""
    from ray.train import RunConfig

    from raylab.train.accelerators.run import make_trainer
    from raylab.train.run import check_gpus, gpus_of_worker

    wanted = replace(wanted, train=None)
    try:
        gpus = gpus_of_worker(config)
        wanted = replace(wanted, gpus=gpus * config.parallel.workers)
        check_gpus(config)
        make_trainer(_nothing, config, gpus, RunConfig())
    except RaylabError as error:
        return wanted, str(error)
    return wanted, ""


def _nothing() -> None:
    """What the workers of a trainer do that is made to see whether it can be made."""


def _prepare(check: Check, task: Task) -> Finding | None:
    """Prepare a check; return what it comes to where that is not possible already."""
    found = ended(begin(check.prepare, task), check.patience_s)
    return check.fail(found.error) if isinstance(found, Failed) else None


def _finish(check: Check, task: Task, findings: dict[str, Finding]) -> None:
    """Clear away what a check prepared, and say so where that is not possible and all else is well."""
    found = ended(begin(check.finish, task), check.patience_s)
    before = findings.get(check.name)
    if isinstance(found, Failed) and (before is None or before.level is not Level.FAIL):
        seen = f"{before.seen}; " if before else ""
        findings[check.name] = check.warn(f"{seen}what was written for it cannot be removed: {found.error}")


def _nodes() -> dict[str, dict[str, Any]]:
    """Return name -> Ray's description of each node that is alive; nodes of one address are told apart by their ids."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    times = Counter(node["NodeManagerAddress"] for node in alive)
    return {_name(node, times[node["NodeManagerAddress"]] == 1): node for node in alive}


def _name(node: Mapping[str, Any], alone: bool) -> str:
    return node["NodeManagerAddress"] if alone else f"{node['NodeManagerAddress']}/{node['NodeID'][:6]}"


def _look_everywhere(
    checks: Sequence[Check], task: Task, nodes: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, dict[str, Any]], dict[str, float], dict[str, str]]:
    """Return node -> what it saw, node -> how far its clock is ahead (s), and node -> why it could not look."""
    eyes = {name: _open_eyes(node["NodeID"]) for name, node in nodes.items()}
    looking = {name: eye.look.remote(checks, replace(task, host=name)) for name, eye in eyes.items()}
    ray.wait(list(looking.values()), num_returns=len(looking), timeout=PATIENCE_S)
    seen, skews, lost = {}, {}, {}
    for name, reference in looking.items():
        try:
            seen[name] = ray.get(reference, timeout=0)
            skews[name] = _skew(eyes[name])
        except (RayError, TimeoutError) as error:
            lost[name] = failed(error).error
            seen.pop(name, None)
    for eye in eyes.values():
        ray.kill(eye)
    return seen, skews, lost


def _open_eyes(node_id: str) -> Any:
    options: dict[str, Any] = {
        "num_cpus": 0,
        "scheduling_strategy": NodeAffinitySchedulingStrategy(node_id, soft=False),
    }
    return ray.remote(**options)(Eyes).remote()


def _skew(eye: Any) -> float:
    """Return how many seconds a node's clock is ahead, as the quickest of some answers tells."""
    found = []
    for _ in range(PINGS):
        asked_at = time.time()
        there = ray.get(eye.now.remote(), timeout=PATIENCE_S)
        answered_at = time.time()
        found.append((answered_at - asked_at, there - (asked_at + answered_at) / 2))
    return min(found)[1]


def _cluster(nodes: Mapping[str, Mapping[str, Any]], is_own: bool, skews: Mapping[str, float], refused: str) -> Cluster:
    from ray._private.authentication.authentication_utils import is_token_auth_enabled
    from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE

    return Cluster(
        {name: dict(node["Resources"]) for name, node in nodes.items()},
        is_own,
        elsewhere=works_elsewhere(),
        most={name: resource(name) for name in ("CPU", "GPU", "TPU")},
        refused=refused,
        token=is_token_auth_enabled(),
        skews={name: skew for name, skew in skews.items() if len(skews) > 1},
        upload_bytes=upload_bytes(Path.cwd()),
        upload_limit=GCS_STORAGE_MAX_SIZE,
    )


def upload_bytes(folder: Path) -> int:
    """Return the bytes, not yet packed, that Ray would send of a working directory."""
    from ray._private.runtime_env.packaging import _dir_travel

    sizes: list[int] = []

    def add(path: Path) -> None:
        if path.is_file():
            sizes.append(path.stat().st_size)

    silent = logging.getLogger(f"{__name__}.packaging")
    silent.setLevel(logging.ERROR)
    _dir_travel(folder, [], add, include_gitignore=True, logger=silent)
    return sum(sizes)

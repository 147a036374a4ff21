"""The one way in which raylab's jobs connect to Ray, and in which Ray's errors come back."""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, partial
from importlib import import_module
from threading import Event, Thread

import ray
from ray._private.utils import get_num_cpus
from ray.exceptions import RayError

from raylab.ceiling import can_grow, resource
from raylab.errors import RaylabError
from raylab.storage import refuse_local

logger = logging.getLogger(__name__)

OWN_RAY = {"worker_niceness": 0}
"""Settings of a Ray that is the job's own. Workers run at the job's priority; by Ray's default they would come after
everything else on the machine."""

READ_CPUS = 0.5
"""What a read task of Ray Data asks for: a reader waits for storage much of the time."""

LOOK_S = 5.0
"""Seconds between two looks at a cluster's head, and for which one look waits."""

GO_ON = "What was committed stays: start the same line on a new cluster."
"""What a user does where a cluster's head is gone."""

RAY_DATA_NOTE = "\nFailed to apply UDF transform"
"""What Ray Data writes behind the message of an exception of ours."""


@contextlib.contextmanager
def session(
    cpus: float,
    gpus: float = 0.0,
    worker_logs: bool = True,
    places: Mapping[str, str] | None = None,
    shared_disk: bool = False,
) -> Iterator[Callable[[], Future[None] | None]]:
    """Use the Ray of this process, else the cluster this job was submitted to, else a Ray of our own on this machine.

    What Ray says, its own errors among it, goes to standard error: standard output is the job's.

    On a machine of our own, CPUs are a means of bookkeeping only: where the pools ask for more than there are, Ray is
    told that there are enough, and the operating system shares the cores out. GPUs are never made up.

    Args:
        cpus: what the job's actors and tasks need at the least, all together.
        gpus: likewise.
        worker_logs: show on the terminal what workers print. An engine prints much, and most of all when it is let go.
        places: flag -> path or address that workers open.
        shared_disk: see `storage.refuse_local`.

    Yields:
        A function that lets go of Ray at once: its processes take a second to go, and do so while the caller works on.
        Without that call it is let go of at the end. A Ray that was there before stays.

    Raises:
        RaylabError: the cluster has fewer GPUs than needed, or several nodes that would not find a local path.
    """
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # our own lines tell progress
    if ray.is_initialized():
        refuse_local(places or {}, nodes(), shared_disk, works_elsewhere())
        yield lambda: None
        return
    with ThreadPoolExecutor(1) as aside, contextlib.ExitStack() as stack:
        # Ray's start is mostly waiting for its processes: what each job needs next is imported meanwhile
        aside.submit(import_module, "raylab.streams")
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        if _start(cpus, worker_logs):
            stack.enter_context(_head_watched(ray.get_runtime_context().gcs_address))
        leave = cache(partial(_let_go, aside))
        try:
            refuse_local(places or {}, nodes(), shared_disk, works_elsewhere())
            _check_resources(cpus, gpus)
            yield leave
        finally:
            leave().result()


def _start(cpus: float, worker_logs: bool) -> bool:
    """Connect to the cluster, or start a Ray of our own; tell whether it is a cluster."""
    if on_cluster():
        ray.init(logging_level=logging.ERROR, log_to_driver=worker_logs)
        return True
    own = max(cores(), math.ceil(cpus))
    ray.init(
        address="local",
        num_cpus=own,
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=worker_logs,
        _system_config=OWN_RAY,
    )
    return False


def cores() -> int:
    """Return the cores that this process may use: those that taskset or a container's limits leave it, one at least."""
    of_container = int(get_num_cpus(override_docker_cpu_warning=True))
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else of_container  # Linux has it
    return max(1, min(allowed, of_container))


def on_cluster() -> bool:
    """Return whether this job was submitted to a cluster, by `ray job submit` or by the environment's address."""
    return bool(os.environ.get("RAY_ADDRESS"))


@contextlib.contextmanager
def _head_watched(address: str) -> Iterator[None]:
    """Say so when the cluster's head does not answer: Ray waits for it, then ends this process in words of its own.

    Raises:
        RaylabError: the work fails sooner than that, because of actors that went with the head.
    """
    over = Event()
    Thread(target=_watch, args=(address, over), daemon=True).start()
    try:
        yield
    except RayError as error:
        if _answers(address):
            raise
        raise RaylabError(f"{_not_there(address)}. {GO_ON}") from error
    finally:
        over.set()


def _watch(address: str, over: Event) -> None:
    misses = 0
    while not over.wait(LOOK_S):
        misses = 0 if _answers(address) else misses + 1
        if misses == 2:
            waits = "Ray waits for it, a minute if nothing else was set, and then ends this job"
            logger.error("%s. %s. %s", _not_there(address), waits, GO_ON)


def _not_there(address: str) -> str:
    return f"the cluster's head, {address}, does not answer"


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), LOOK_S).close()
    except OSError:
        return False
    return True


def _let_go(aside: ThreadPoolExecutor) -> Future[None]:
    """Shut Ray down in another thread.

    Ray Data leaves references to its objects in cycles. If they were freed while Ray goes, or after it, Ray would end
    this process: they are freed before.
    """
    gc.collect()
    return aside.submit(ray.shutdown)


def nodes() -> int:
    """Return how many nodes the cluster has now. One that comes later finds out itself: see `storage.check_seen`."""
    return sum(node["Alive"] for node in ray.nodes())


def works_elsewhere() -> bool:
    """Tell whether nodes that are not there yet will do the work: this one offers no CPU, or the cluster can grow."""
    return not ray.cluster_resources().get("CPU") or can_grow()


def auto_accelerator() -> str:
    """Return what the cluster trains on: ``cuda``, ``xla`` or ``cpu``; what it has comes before what it can grow to.

    Raises:
        RaylabError: it can grow, and nobody can tell to what.
    """
    kinds = {"GPU": "cuda", "TPU": "xla"}
    now = ray.cluster_resources()
    most = {name: now.get(name, 0.0) for name in kinds}
    if not any(most.values()):
        most = {name: resource(name) for name in kinds}
    if math.inf in most.values():
        raise RaylabError(
            "--accelerator auto: this cluster has neither GPUs nor TPUs now, it can grow, and nobody can tell to what. "
            "Say --accelerator cuda, xla or cpu."
        )
    return next((kinds[name] for name in kinds if most[name]), "cpu")


def _check_resources(cpus: float, gpus: float) -> None:
    if gpus > resource("GPU"):
        raise RaylabError(
            f"The job's actors need {gpus:g} GPUs and this Ray has {resource('GPU'):g}: set --pools.<step>.num-gpus 0 "
            "(labels) or --device cpu (evaluation), or start the job on a cluster that has them."
        )
    has = ray.cluster_resources()
    for name, needed in (("CPU", cpus), ("GPU", gpus)):
        if needed > has.get(name, 0):
            now = has.get(name, 0)
            text = "the job needs %g %ss, the cluster has %g now: waiting for it to grow (see ray status)"
            logger.warning(text, needed, name, now)


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Raise the `RaylabError` that a Ray task or actor died of, instead of Ray's wrapping of it."""
    try:
        yield
    except RayError as error:
        found = _cause(error)
        if found is None:
            raise
        raise found from None


def _cause(error: BaseException | None) -> RaylabError | None:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, RaylabError) and not isinstance(error, RayError):  # Ray's wrapper is of both kinds
            return RaylabError(str(error).partition(RAY_DATA_NOTE)[0])
        error = getattr(error, "cause", None) or error.__cause__ or error.__context__
    return None

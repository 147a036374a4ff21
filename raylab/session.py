"""The one way in which raylab's jobs connect to Ray, and in which Ray's errors come back."""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, partial
from importlib import import_module

import ray
from ray.exceptions import RayError

from raylab.errors import RaylabError
from raylab.storage import refuse_local

logger = logging.getLogger(__name__)

OWN_RAY = {"worker_niceness": 0}
"""Settings of a Ray that is the job's own. Workers run at the job's priority; by Ray's default they would come after
everything else on the machine."""

READ_CPUS = 0.5
"""What a read task of Ray Data asks for: a reader waits for storage much of the time."""

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
        refuse_local(places or {}, _nodes(), shared_disk)
        yield lambda: None
        return
    with ThreadPoolExecutor(1) as aside:
        # Ray's start is mostly waiting for its processes: what each job needs next is imported meanwhile
        aside.submit(import_module, "raylab.streams")
        _start(cpus, worker_logs)
        leave = cache(partial(_let_go, aside))
        try:
            refuse_local(places or {}, _nodes(), shared_disk)
            _check_resources(cpus, gpus)
            yield leave
        finally:
            leave().result()


def _start(cpus: float, worker_logs: bool) -> None:
    """Connect to the cluster, or start a Ray of our own."""
    if os.environ.get("RAY_ADDRESS"):  # set by `ray job submit`
        ray.init(logging_level=logging.ERROR, log_to_driver=worker_logs)
        return
    own = max(os.cpu_count() or 1, math.ceil(cpus))
    ray.init(
        address="local",
        num_cpus=own,
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=worker_logs,
        _system_config=OWN_RAY,
    )


def _let_go(aside: ThreadPoolExecutor) -> Future[None]:
    """Shut Ray down in another thread.

    Ray Data leaves references to its objects in cycles. If they were freed while Ray goes, or after it, Ray would end
    this process: they are freed before.
    """
    gc.collect()
    return aside.submit(ray.shutdown)


def _nodes() -> int:
    """Return how many nodes the cluster has now. One that comes later finds out itself: see `storage.check_seen`."""
    return sum(node["Alive"] for node in ray.nodes())


def _check_resources(cpus: float, gpus: float) -> None:
    if gpus > resource("GPU"):
        raise RaylabError(
            f"The pools need {gpus:g} GPUs and this Ray has {resource('GPU'):g}: "
            "set --pools.<step>.num-gpus 0, or start the job on a cluster that has them."
        )
    has = ray.cluster_resources()
    for name, needed in (("CPU", cpus), ("GPU", gpus)):
        if needed > has.get(name, 0):
            now = has.get(name, 0)
            logger.warning("the job needs %g %ss, the cluster has %g now: waiting for it to grow", needed, name, now)


def resource(name: str) -> float:
    """Return how much of a resource the cluster has, or can grow to, as far as Ray's autoscaler tells (its v2 does)."""
    from ray._private.state import state

    most = state.get_max_resources_from_cluster_config() or {}
    return max(ray.cluster_resources().get(name, 0.0), most.get(name, 0.0))


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

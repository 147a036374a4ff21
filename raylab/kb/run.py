"""Build a knowledge base with the reading spread over Ray: the part that parses a Wikidata dump of 1.5 TB of text."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from raylab.errors import RaylabError
from raylab.kb.build import BuildConfig, build
from raylab.kb.catalog import KBInfo
from raylab.kb.lines import PIECE_BYTES
from raylab.kb.wikidata import dump_pieces

AHEAD = 512
"""Tasks that are handed to Ray before the first one's result is taken: at most so many cores work."""


def run(config: BuildConfig) -> KBInfo:
    """Build `config`; a dump of more than one piece is read by Ray tasks, all else by processes of this machine.

    The tasks spill beside `config.out`: on a cluster of several nodes that must be a disk which all of them mount.

    Raises:
        RaylabError: as `build.build`; several nodes and no shared disk.
    """
    if sum(piece.size for path in config.dump for piece in dump_pieces(path)) <= PIECE_BYTES:
        return build(config)
    import ray

    from raylab.session import nodes, works_elsewhere

    ours = not ray.is_initialized()
    if ours:
        ray.init(log_to_driver=False, include_dashboard=False)
    try:
        count = nodes()
        if (count > 1 or works_elsewhere()) and not config.shared_disk:
            has = f"has {count} nodes" if count > 1 else "starts nodes for the work"
            raise RaylabError(
                f"This cluster {has}, which hand parts of the dump to each other by --out {config.out}: "
                "give a path of a disk that every node mounts at the same place, with --shared-disk, or build on one "
                "machine. The result can be copied to a bucket and named by its address."
            )
        return build(config, ray_map)
    finally:
        if ours:
            ray.shutdown()


def ray_map(function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
    """Run `function` over `tasks` as Ray tasks, a lost one again; results in the tasks' order.

    When one fails, no more are begun, and those that run are left to end: where Ray 2.60 cancels a task in the moment
    in which it ends, it aborts this whole process.

    Raises:
        RaylabError: raised by a task, as it was.
    """
    import ray

    remote = ray.remote(num_cpus=1, max_retries=3)(function)
    left = iter(tasks)
    waiting = deque(remote.remote(task) for task in islice(left, AHEAD))
    while waiting:
        try:
            yield ray.get(waiting.popleft())
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        waiting.extend(remote.remote(task) for task in islice(left, 1))

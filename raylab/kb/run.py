"""Build a knowledge base with the reading spread over Ray: the part that parses a Wikidata dump of 1.5 TB of text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from raylab.errors import RaylabError
from raylab.kb.build import BuildConfig, build
from raylab.kb.catalog import KBInfo
from raylab.kb.lines import PIECE_BYTES
from raylab.kb.wikidata import dump_pieces


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

    Raises:
        RaylabError: raised by a task, as it was.
    """
    import ray

    remote = ray.remote(num_cpus=1, max_retries=3)(function)
    waiting = [remote.remote(task) for task in tasks]
    for result in waiting:
        try:
            yield ray.get(result)
        except ray.exceptions.RayTaskError as error:
            for other in waiting:
                ray.cancel(other)
            raise error.cause from error

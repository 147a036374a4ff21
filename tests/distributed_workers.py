"""Runs a function in some processes that talk by gloo, for tests of what workers say to each other."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_workers(work: Callable[[int, int], Any], world: int, *arguments: Any) -> list[Any]:
    """Call ``work(rank, world, *arguments)`` in `world` processes; return what each returned."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_worker, (work, world, folder, arguments), nprocs=world)
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(world)]


def _worker(rank: int, work: Callable[..., Any], world: int, folder: str, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    found = work(rank, world, *arguments)
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()

"""What the losses say to each other across workers; with one worker, nothing."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn import functional as across


def world() -> int:
    """Return the number of workers, 1 outside of torch.distributed."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return this worker's number, 0 outside of torch.distributed."""
    return dist.get_rank() if dist.is_initialized() else 0


def gather(vector_BD: Tensor) -> Tensor:
    """Return all workers' rows, by worker; the gradient comes back summed over workers."""
    return torch.cat(across.all_gather(vector_BD.contiguous())) if world() > 1 else vector_BD


def gather_ids(number_B: Tensor) -> Tensor:
    """Return all workers' whole numbers, by worker."""
    if world() == 1:
        return number_B
    parts = [torch.empty_like(number_B) for _ in range(world())]
    dist.all_gather(parts, number_B.contiguous())
    return torch.cat(parts)


def all_reduce(value_N: Tensor) -> Tensor:
    """Return the sum over workers; its gradient is the sum of theirs."""
    return across.all_reduce(value_N) if world() > 1 else value_N


def mean(value_N: Tensor) -> Tensor:
    """Return the mean over workers, without a gradient."""
    found = value_N.detach().clone()
    if world() > 1:
        dist.all_reduce(found)
    return found / world()


def highest(value_N: Tensor) -> Tensor:
    """Return the largest over workers, without a gradient."""
    found = value_N.detach().clone()
    if world() > 1:
        dist.all_reduce(found, dist.ReduceOp.MAX)
    return found

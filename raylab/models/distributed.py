"""What the losses say to each other across workers; with one worker, nothing."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world() -> int:
    """Return the number of workers, 1 outside of torch.distributed."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return this worker's number, 0 outside of torch.distributed."""
    return dist.get_rank() if dist.is_initialized() else 0


def gather(vector_BD: Tensor) -> Tensor:
    """Return all workers' rows, by worker; the gradient comes back summed over workers."""
    return _Gather.apply(vector_BD) if world() > 1 else vector_BD


def gather_ids(number_B: Tensor) -> Tensor:
    """Return all workers' whole numbers, by worker."""
    return _gathered(number_B) if world() > 1 else number_B


def all_reduce(value_N: Tensor) -> Tensor:
    """Return the sum over workers; its gradient is the sum of theirs."""
    return _AllReduce.apply(value_N) if world() > 1 else value_N


def mean(value_N: Tensor) -> Tensor:
    """Return the mean over workers, without a gradient."""
    return _summed(value_N.detach()) / world() if world() > 1 else value_N.detach()


def highest(value_N: Tensor) -> Tensor:
    """Return the largest over workers, without a gradient."""
    found = value_N.detach().clone()
    if world() > 1:
        dist.all_reduce(found, dist.ReduceOp.MAX)
    return found


class _Gather(torch.autograd.Function):
    """`gather`. torch.distributed.nn, which has the like, is deprecated and not for compiled code."""

    @staticmethod
    def forward(ctx: Any, vector_BD: Tensor) -> Tensor:
        return _gathered(vector_BD)

    @staticmethod
    def backward(ctx: Any, gradient_ND: Tensor) -> Tensor:
        return _summed(gradient_ND).chunk(world())[rank()]


class _AllReduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value_N: Tensor) -> Tensor:
        return _summed(value_N)

    @staticmethod
    def backward(ctx: Any, gradient_N: Tensor) -> Tensor:
        return _summed(gradient_N)


def _gathered(value_B: Tensor) -> Tensor:
    parts = [torch.empty_like(value_B) for _ in range(world())]
    dist.all_gather(parts, value_B.contiguous())
    return torch.cat(parts)


def _summed(value_N: Tensor) -> Tensor:
    found = value_N.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(found)
    return found

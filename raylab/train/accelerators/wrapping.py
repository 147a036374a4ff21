"""DDP and FSDP2, which are the same on every device of torch's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard

from raylab.models.distributed import mean

if TYPE_CHECKING:
    from raylab.tasks.base import Learner
    from raylab.train.plan import ParallelConfig


def wrap(learner: Learner, parallel: ParallelConfig, device: torch.device) -> nn.Module:
    """Return the module that is called in training; parameters keep their identity under DDP, become DTensors by FSDP2.

    Args:
        learner: on the device already.
        parallel: see there.
        device: of this process.
    """
    if parallel.checkpoint_activations:
        learner.checkpoint_activations()
    module = learner.module
    if parallel.strategy == "fsdp" and dist.is_initialized():
        module = _shard(learner, device)
    if parallel.compile:
        module.compile()
    if parallel.strategy == "ddp" and dist.is_initialized() and dist.get_world_size() > 1:
        ids = [device.index] if device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(module, device_ids=ids)
    return module


def _shard(learner: Learner, device: torch.device) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    # FSDP2 shards no other memory format
    learner.module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    scalars = {parameter for parameter in learner.module.parameters() if parameter.ndim == 0}
    for parameter in scalars:  # such as a temperature: cannot be sharded, so each worker keeps it
        if parameter.requires_grad:
            parameter.register_hook(mean)
    for unit in learner.shard_units():
        fully_shard(unit, mesh=mesh)
    return cast(nn.Module, fully_shard(learner.module, mesh=mesh, ignored_params=scalars))


@contextmanager
def whole(module: nn.Module) -> Iterator[None]:
    """Give every worker all of a sharded network for a while; all workers call it. What is not sharded stays as it is.

    FSDP2 gathers a block when it is called. Decoding reaches into blocks by other ways, and step after step.
    """
    units = [one for one in module.modules() if isinstance(one, FSDPModule)]
    for unit in units:
        unit.unshard()
        unit.set_reshard_after_forward(False, recurse=False)
    yield
    for unit in units:
        unit.set_reshard_after_forward(unit is not module, recurse=False)  # the root stays: FSDP2's own choice
        unit.reshard()

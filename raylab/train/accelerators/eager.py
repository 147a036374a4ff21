"""What CPU and GPUs have in common: an operation runs when it is called, workers talk by torch.distributed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from raylab.models.distributed import rank, world
from raylab.train.accelerators.wrapping import wrap
from raylab.train.order import generator

if TYPE_CHECKING:
    from torch import Tensor, nn

    from raylab.tasks.base import Learner
    from raylab.train.plan import ParallelConfig


class EagerAccelerator:
    """See `base.Accelerator`."""

    device: torch.device
    devices = 1
    writes = True
    describes = True
    static = False

    @property
    def rank(self) -> int:
        """See `base.Accelerator`."""
        return rank()

    @property
    def world(self) -> int:
        """See `base.Accelerator`."""
        return world()

    def wrap(self, learner: Learner, parallel: ParallelConfig) -> nn.Module:
        """See `base.Accelerator`."""
        return wrap(learner, parallel, self.device)

    def settle(self, learner: Learner, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Everything lies where it was wrapped."""

    def to_host(self, state: dict[str, Any]) -> dict[str, Any]:
        """torch.distributed.checkpoint writes from the device, and reads into it."""
        return state

    def seed(self, *key: int) -> None:
        """See `base.Accelerator`."""
        torch.manual_seed(int(generator(*key).integers(2**63)))

    def submit(self) -> None:
        """What was called is on its way already."""

    def joined(self, values: Tensor) -> Tensor:
        """There is one device."""
        return values

    def stack(self, values: Sequence[Tensor]) -> Tensor:
        """See `base.Accelerator`."""
        return torch.stack(list(values))

"""Training on the CPU: for a laptop, for tests, and as the truth that other devices are compared with."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from raylab.train.accelerators.wrapping import wrap
from raylab.train.order import generator

if TYPE_CHECKING:
    from torch import Tensor, nn

    from raylab.tasks.base import Learner
    from raylab.train.plan import ParallelConfig


class CpuAccelerator:
    """See `base.Accelerator`."""

    name = "cpu"
    backend = "gloo"

    def __init__(self) -> None:
        self.device = torch.device("cpu")

    def place(self, learner: Learner) -> None:
        """Pictures are convolved channels last."""
        learner.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def wrap(self, learner: Learner, parallel: ParallelConfig) -> nn.Module:
        """See `base.Accelerator`."""
        return wrap(learner, parallel, self.device)

    def autocast(self, precision: str) -> AbstractContextManager[Any]:
        """Bfloat16 where it is asked for."""
        return torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext()

    def to_device(self, batch: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
        """Copy arrays that Arrow does not let be written to."""
        return {name: torch.from_numpy(np.require(values, requirements="W")) for name, values in batch.items()}

    def seed(self, *key: int) -> None:
        """See `base.Accelerator`."""
        torch.manual_seed(int(generator(*key).integers(2**63)))

    def synchronise(self) -> None:
        """Nothing runs ahead here."""

    def memory(self) -> int:
        """Bytes of the resident set at its largest."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

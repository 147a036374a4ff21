"""Training on the CPU: for a laptop, for tests, and as the truth that other devices are compared with."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from raylab.train.accelerators.eager import EagerAccelerator

if TYPE_CHECKING:
    from torch import Tensor

    from raylab.tasks.base import Learner


class CpuAccelerator(EagerAccelerator):
    """See `base.Accelerator`."""

    name = "cpu"

    def __init__(self) -> None:
        self.device = torch.device("cpu")

    def place(self, learner: Learner) -> None:
        """Pictures are convolved channels last."""
        learner.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def autocast(self, precision: str) -> AbstractContextManager[Any]:
        """Bfloat16 where it is asked for."""
        return torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext()

    def to_device(self, batch: Mapping[str, np.ndarray], split: bool = True) -> dict[str, Tensor]:
        """Copy arrays that Arrow does not let be written to."""
        return {name: torch.from_numpy(np.require(values, requirements="W")) for name, values in batch.items()}

    def synchronise(self) -> None:
        """Nothing runs ahead here."""

    def measures(self) -> dict[str, float]:
        """The resident set at its largest."""
        return {"memory_gb": resident_bytes() / 1e9}


def resident_bytes() -> int:
    """Return the most bytes that this process had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

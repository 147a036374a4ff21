"""Training on NVIDIA GPUs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from raylab.errors import RaylabError
from raylab.train.accelerators.eager import EagerAccelerator

if TYPE_CHECKING:
    from torch import Tensor

    from raylab.tasks.base import Learner


class CudaAccelerator(EagerAccelerator):
    """See `base.Accelerator`. Ray shows a worker its own GPUs alone, so the first one that is seen is its own."""

    name = "cuda"

    def __init__(self) -> None:
        if not torch.cuda.is_available():
            raise RaylabError("--accelerator cuda: torch sees no GPU here; take cpu, or a machine that has one.")
        self.device = torch.device("cuda", torch.cuda.current_device())
        torch.set_float32_matmul_precision("high")

    def place(self, learner: Learner) -> None:
        """See `base.Accelerator`."""
        learner.module.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if learner.table is not None:
            learner.table.to(self.device)

    def autocast(self, precision: str) -> AbstractContextManager[Any]:
        """Bfloat16 where it is asked for."""
        return torch.autocast("cuda", torch.bfloat16) if precision == "bf16" else nullcontext()

    def to_device(self, batch: Mapping[str, np.ndarray], split: bool = True) -> dict[str, Tensor]:
        """From pinned memory, while the device works on."""
        tensors = {name: torch.from_numpy(np.require(values, requirements="W")) for name, values in batch.items()}
        return {name: value.pin_memory().to(self.device, non_blocking=True) for name, value in tensors.items()}

    def synchronise(self) -> None:
        """See `base.Accelerator`."""
        torch.cuda.synchronize(self.device)

    def measures(self) -> dict[str, float]:
        """What torch had from the GPU at the most."""
        return {"memory_gb": torch.cuda.max_memory_reserved(self.device) / 1e9}

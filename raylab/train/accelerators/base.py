"""What the trainer asks of a kind of device. A new one is one file beside this."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from raylab.tasks.base import Learner
    from raylab.train.plan import ParallelConfig


class Accelerator(Protocol):
    """A process's device.

    Attributes:
        name: as on the command line.
        device: of this process.
        backend: torch.distributed's, for many workers.
    """

    name: str
    device: torch.device
    backend: str

    def place(self, learner: Learner) -> None:
        """Move a learner's network and table to the device."""
        ...

    def wrap(self, learner: Learner, parallel: ParallelConfig) -> torch.nn.Module:
        """Return the learner's module for many workers: replicated or sharded, compiled where that is asked for."""
        ...

    def autocast(self, precision: str) -> AbstractContextManager[None]:
        """Return the context of the forward pass."""
        ...

    def to_device(self, batch: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
        """Return a batch's arrays as tensors on the device."""
        ...

    def seed(self, *key: int) -> None:
        """Make all that is random from here on depend on `key` alone."""
        ...

    def synchronise(self) -> None:
        """Wait until the device has done what it was told."""
        ...

    def memory(self) -> int:
        """Return the most bytes that the process had on the device, or as its resident set."""
        ...

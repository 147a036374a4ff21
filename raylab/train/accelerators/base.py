"""What the trainer asks of a kind of device. A new one is one file beside this."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from raylab.tasks.base import Learner
    from raylab.train.plan import ParallelConfig


class Accelerator(Protocol):
    """A process's device, or devices that it sees as one.

    Attributes:
        name: as on the command line.
        device: of this process.
        devices: the rows of a pass are shared among so many in this process.
        writes: whether this process has a part in writing a checkpoint.
        describes: whether the first worker can look at rows that the others do not look at.
        static: whether a batch of another shape costs the time to compile a program for it.
    """

    name: str
    device: torch.device

    @property
    def devices(self) -> int:
        """See above."""
        ...

    @property
    def writes(self) -> bool:
        """See above."""
        ...

    @property
    def describes(self) -> bool:
        """See above."""
        ...

    @property
    def static(self) -> bool:
        """See above."""
        ...

    @property
    def rank(self) -> int:
        """This process's number among those that read rows."""
        ...

    @property
    def world(self) -> int:
        """How many processes read rows."""
        ...

    def place(self, learner: Learner) -> None:
        """Move a learner's network and table to the device."""
        ...

    def wrap(self, learner: Learner, parallel: ParallelConfig) -> torch.nn.Module:
        """Return the learner's module for many workers: replicated or sharded, compiled where that is asked for."""
        ...

    def settle(self, learner: Learner, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Lay out again what was read from a checkpoint as `wrap` laid it out."""
        ...

    def autocast(self, precision: str) -> AbstractContextManager[None]:
        """Return the context of the forward pass."""
        ...

    def to_device(self, batch: Mapping[str, np.ndarray], split: bool = True) -> dict[str, Tensor]:
        """Return a batch's arrays as tensors on the device.

        Args:
            batch: this process's rows.
            split: give each of several devices its part of the rows, instead of all of them.
        """
        ...

    def to_host(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return a run's state with tensors that torch.distributed.checkpoint writes from, or reads into."""
        ...

    def seed(self, *key: int) -> None:
        """Make all that is random from here on depend on `key` alone."""
        ...

    def submit(self) -> None:
        """Let the device do what was called since the last time, where it does not do so by itself."""
        ...

    def joined(self, values: Tensor) -> Tensor:
        """Return a result of a step, not submitted yet, with the rows of all of this process's devices."""
        ...

    def stack(self, values: Sequence[Tensor]) -> Tensor:
        """Return submitted tensors of one shape, stacked, to be computed with outside of the steps."""
        ...

    def synchronise(self) -> None:
        """Wait until the device has done what it was told."""
        ...

    def measures(self) -> dict[str, float]:
        """Return ``memory_gb``, the most that the process had on the device or as its resident set, and others."""
        ...

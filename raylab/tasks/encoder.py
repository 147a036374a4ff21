"""What all tasks that pretrain an encoder of pictures share: its upkeep where it is trained, and how it is saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raylab.tasks.base import Group, decay_groups

if TYPE_CHECKING:
    from torch import nn

    from raylab.models.class_table import ClassTable


class EncoderLearner:
    """The trainer's half, but for inputs, losses and what is said of pictures: see `tasks.base.Learner`.

    Args:
        module: with ``shard_units``, ``set_grad_checkpointing`` and ``save``.
    """

    table: ClassTable | None = None

    def __init__(self, module: Any) -> None:
        self.module = module
        self._submit: Callable[[], None] | None = None

    def groups(self) -> list[Group]:
        """Matrices, and what is not decayed; as in MAE, class token and mask token are of the first."""
        return decay_groups(self.module)

    def shard_units(self) -> list[nn.Module]:
        """See `tasks.base.Learner`."""
        return self.module.shard_units()

    def checkpoint_activations(self) -> None:
        """See `tasks.base.Learner`."""
        self.module.set_grad_checkpointing()

    def make_static(self, submit: Callable[[], None]) -> None:
        """See `tasks.base.Learner`."""
        self._submit = submit

    def after_step(self) -> None:
        """Nothing has a limit."""

    def save(self, folder: Path) -> None:
        """Write the encoder alone, as a folder of timm that `models.image_encoder` opens."""
        self.module.save(folder)

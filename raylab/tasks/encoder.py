"""What all tasks on an encoder of pictures share: where its weights lie, its upkeep in training, how it is saved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from raylab.models.mae import VitConfig
from raylab.tasks.base import Group, decay_groups

if TYPE_CHECKING:
    from torch import nn

    from raylab.models.class_table import ClassTable


def layered_groups(network: Any, decay: float, rate: float = 1.0) -> list[Group]:
    """Return a timm network's parameters by layer, each at a share of the rate of the layer behind it (timm's way).

    What a network does not want to decay, such as class token and positions, does not.

    Args:
        network: of `timm.create_model`.
        decay: the share.
        rate: of the last layer, see `tasks.base.Group`.
    """
    from timm.optim import param_groups_layer_decay

    spared = network.no_weight_decay() if hasattr(network, "no_weight_decay") else ()
    found = param_groups_layer_decay(network, 1.0, no_weight_decay_list=spared, layer_decay=decay)
    kinds = ["matrices" if one["weight_decay"] else "others" for one in found]
    return [
        Group(f"x{one['lr_scale']:.2g} {kind}", one["params"], rate * one["lr_scale"], decays=kind == "matrices")
        for one, kind in zip(found, kinds)
    ]


class EncoderTask:
    """What tasks on an encoder have in common. Their ``encoder`` says which, and what it begins with."""

    encoder: VitConfig

    def located(self, whole: Callable[[str], str]) -> Self:
        """See `tasks.base.Located`."""
        task: Any = self  # a dataclass
        return replace(task, encoder=replace(self.encoder, weights=whole(self.encoder.weights)))

    def places(self) -> dict[str, str]:
        """See `tasks.base.Located`."""
        return {"--task.encoder.weights": self.encoder.weights}


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

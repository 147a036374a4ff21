"""Segmentation with UperNet's head on a pretrained encoder, all of it tuned (as MAE's on ADE20K, arXiv 2111.06377)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from raylab.errors import RaylabError
from raylab.models.upernet import UperNetConfig
from raylab.tasks.base import Group
from raylab.tasks.encoder import layered_groups
from raylab.tasks.segmentation import SegmentationLearner, SegmentationTask, pixel_groups

if TYPE_CHECKING:
    from raylab.models.pixel_net import PixelNet


@dataclass(frozen=True)
class UperNetTask(SegmentationTask):
    """UperNet's head as head."""

    head: UperNetConfig = field(default_factory=UperNetConfig)
    layer_decay: float = 0.65
    """An encoder's block's rate, as a share of that of the block behind it; 1: all alike."""

    def __post_init__(self) -> None:
        """Refuse rates that make no sense."""
        super().__post_init__()
        if not 0 < self.layer_decay <= 1:
            raise RaylabError(f"task.layer_decay={self.layer_decay}: give a number above 0, and 1 at most.")

    def learner(self, classes: Sequence[str]) -> UperNetLearner:
        """Return network and losses."""
        return UperNetLearner(self.build(classes), classes, self)


class UperNetLearner(SegmentationLearner):
    """See `tasks.base.Learner`."""

    def __init__(self, module: PixelNet, classes: Sequence[str], task: UperNetTask) -> None:
        super().__init__(module, classes, task)
        self.layer_decay = task.layer_decay

    def groups(self) -> list[Group]:
        """The encoder's, each block's at its rate, and the head's."""
        if not self.task.encoder_rate:
            return super().groups()
        network: Any = self.module.encoder.network
        encoder = layered_groups(getattr(network, "model", network), self.layer_decay, self.task.encoder_rate)
        return [*encoder, *pixel_groups(self.module.head, "head ")]

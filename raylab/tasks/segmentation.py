"""Segmentation: a class for each pixel, by cross entropy. The encoder and the head are any that fit together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from raylab.config import to_dict
from raylab.errors import RaylabError
from raylab.models.dpc import CellConfig
from raylab.models.pixel_encoder import PixelEncoderConfig
from raylab.models.pixel_net import HeadConfig, PixelNet, save_net
from raylab.sources.segmentation import IGNORE
from raylab.tasks.base import Group

if TYPE_CHECKING:
    from raylab.models.class_table import ClassTable


@dataclass(frozen=True)
class SegmentationTask:
    """What is learnt. Another head is a subclass with its config as `head`."""

    encoder: PixelEncoderConfig = field(default_factory=PixelEncoderConfig)
    head: HeadConfig = field(default_factory=CellConfig)
    encoder_rate: float = 1.0
    """The encoder's share of the learning rate; 0: it is frozen, running statistics included."""

    def __post_init__(self) -> None:
        """Refuse a rate that makes no sense."""
        if self.encoder_rate < 0:
            raise RaylabError(f"task.encoder_rate={self.encoder_rate}: give 0 (frozen) or more.")

    def build(self, classes: Sequence[str]) -> PixelNet:
        """Return the network, random weights by torch's present seed.

        Raises:
            RaylabError: an encoder or a head that there is not, or that do not fit each other.
        """
        encoder = self.encoder.build()
        head = self.head.build(encoder.channels, encoder.strides, len(classes))
        return PixelNet(encoder, head, frozen=self.encoder_rate == 0)

    def learner(self, classes: Sequence[str]) -> SegmentationLearner:
        """Return network and losses."""
        return SegmentationLearner(self.build(classes), classes, self)


@dataclass(frozen=True)
class CellTask(SegmentationTask):
    """A dense-prediction cell, ASPP, or a single convolution as head."""

    head: CellConfig = field(default_factory=CellConfig)


def pixel_losses(logit_BCHW: Tensor, mask_BHW: Tensor) -> dict[str, Tensor]:
    """Return ``loss``, the mean cross entropy of the pixels that count, and ``pixel_accuracy`` of these.

    Args:
        logit_BCHW: float32, of any size: it is enlarged bilinearly to the masks'.
        mask_BHW: uint8, `IGNORE` where a pixel does not count.
    """
    logit_BCHW = interpolate(logit_BCHW, mask_BHW.shape[-2:], mode="bilinear", align_corners=False)
    true_BHW = mask_BHW.long()
    counts_BHW = true_BHW != IGNORE
    some = counts_BHW.sum().clamp(min=1)
    loss = cross_entropy(logit_BCHW, true_BHW, ignore_index=IGNORE, reduction="sum") / some
    right = ((logit_BCHW.argmax(1) == true_BHW) & counts_BHW).sum() / some
    return {"loss": loss, "pixel_accuracy": right}


class PixelLearner:
    """See `tasks.base.Learner`: what does not hang on where the maps come from.

    Args:
        module: returns ``logit_BCHW``.
    """

    table: ClassTable | None = None

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def inputs(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Pictures."""
        return (batch["image_BHWC"],)

    def losses(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `pixel_losses`."""
        return pixel_losses(outputs["logit_BCHW"], batch["mask_BHW"])

    def groups(self) -> list[Group]:
        """See `pixel_groups`."""
        return pixel_groups(self.module)

    def shard_units(self) -> list[nn.Module]:
        """All in one."""
        return [self.module]

    def checkpoint_activations(self) -> None:
        """Refuse: networks of timm that give maps have no common way."""
        raise RaylabError("Segmentation does not compute activations again: take a smaller batch or crop.")

    def make_static(self, submit: Callable[[], None]) -> None:
        """No data decides a size."""

    def describe(self, batch: Mapping[str, Tensor]) -> list[str]:
        """Return for each picture how many of its pixels are right."""
        logit_BCHW = self.module(*self.inputs(batch))["logit_BCHW"]
        accuracies = [
            pixel_losses(logit_1CHW, mask_1HW)["pixel_accuracy"]
            for logit_1CHW, mask_1HW in zip(logit_BCHW.split(1), batch["mask_BHW"].split(1))
        ]
        return [f"{100 * float(one):.0f} % of the pixels are right" for one in accuracies]

    def after_step(self) -> None:
        """Nothing has a limit."""

    def save(self, folder: Path) -> None:
        """Refuse: what has no encoder is no model.

        Raises:
            RaylabError: always.
        """
        raise RaylabError("A head alone is not saved: train it with its encoder.")


class MapLearner(PixelLearner):
    """A head alone, on maps that were computed before."""

    def inputs(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """The last map, which is kept in half precision."""
        return (batch["map_BCHW"].float(),)


class SegmentationLearner(PixelLearner):
    """An encoder and a head.

    Args:
        module: pictures to scores.
        classes: their names.
        task: the config that made it.
    """

    module: PixelNet

    def __init__(self, module: PixelNet, classes: Sequence[str], task: SegmentationTask) -> None:
        super().__init__(module)
        self.classes, self.task = tuple(classes), task

    def groups(self) -> list[Group]:
        """The encoder's, at its share of the rate, and the head's."""
        encoder = pixel_groups(self.module.encoder, "encoder_", self.task.encoder_rate)
        return [group for group in [*encoder, *pixel_groups(self.module.head)] if group.parameters]

    def shard_units(self) -> list[nn.Module]:
        """The encoder and the head."""
        return [self.module.encoder, self.module.head]

    def save(self, folder: Path) -> None:
        """Write the network and its classes."""
        save_net(self.module, folder, self.classes, to_dict(self.task))


def pixel_groups(module: nn.Module, prefix: str = "", rate: float = 1.0) -> list[Group]:
    """Return parameters that learn: those that decay, and the others.

    Depthwise filters do not decay, as in the released code of arXiv 1809.04184; nor do biases and norms.
    """
    spared = {id(layer.weight) for layer in module.modules() if isinstance(layer, nn.Conv2d) and layer.groups > 1}
    found = [one for one in module.parameters() if one.requires_grad]
    decays = [one for one in found if one.ndim > 1 and id(one) not in spared]
    others = [one for one in found if one.ndim <= 1 or id(one) in spared]
    return [Group(f"{prefix}matrices", decays, rate, decays=True), Group(f"{prefix}others", others, rate, decays=False)]

"""SimCLR (arXiv 2002.05709): the baseline that tells pictures apart by themselves, without their texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch

from raylab.errors import RaylabError
from raylab.models.augment import DRAWS, ViewConfig
from raylab.models.mae import VitConfig
from raylab.models.simclr import SimClr, nt_xent
from raylab.tasks.base import Arrays, ImageInput, TaskContext
from raylab.tasks.encoder import EncoderLearner

if TYPE_CHECKING:
    from torch import Tensor

LARGER = 8 / 7
"""Pictures are read at so many times the encoder's side: views are parts of them (256 for 224, our choice)."""


@dataclass(frozen=True)
class SimClrTask:
    """Two views of each picture, NT-Xent."""

    encoder: VitConfig = field(default_factory=VitConfig)
    views: ViewConfig = field(default_factory=ViewConfig)
    hidden: int = 2048
    """Width of the projection's hidden layer."""
    dim: int = 128
    """Length of a projected vector (arXiv 2002.05709, section 2.1)."""
    temperature: float = 0.1
    """Cosines are divided by it."""
    crop: str = "centre"
    """See `tasks.base.ImageInput`; views are parts of it."""

    def __post_init__(self) -> None:
        """Refuse what cannot be learnt with, or begun with."""
        if self.temperature <= 0:
            raise RaylabError(f"task.temperature={self.temperature}: give a number above 0.")
        if self.encoder.weights:
            raise RaylabError("task.encoder.weights: this baseline begins with random weights, or with --init.")

    def collator(self, context: TaskContext) -> PictureCollator:
        """See `tasks.base.TaskConfig`."""
        return PictureCollator(round(self.encoder.side * LARGER), self.crop)

    def learner(self, context: TaskContext) -> SimClrLearner:
        """See `tasks.base.TaskConfig`."""
        return SimClrLearner(self)


class PictureCollator:
    """``draw_BVR`` float32: what is random about two views of each picture."""

    columns: Sequence[str] = ()

    def __init__(self, side: int, crop: str) -> None:
        self.image: ImageInput = ImageInput(side, crop)

    def usable(self, rows: pa.Table) -> np.ndarray:
        """All rows."""
        return np.ones(len(rows), bool)

    def __call__(self, rows: pa.Table, draws: Sequence[np.random.Generator]) -> Arrays:
        """See `tasks.base.Collator`."""
        return {"draw_BVR": np.stack([draw.random((2, DRAWS), np.float32) for draw in draws])}


class SimClrLearner(EncoderLearner):
    """See `tasks.base.Learner`. Views of a picture follow from its place in the run's order."""

    module: SimClr

    def __init__(self, config: SimClrTask) -> None:
        super().__init__(SimClr(config.encoder.build(), (config.hidden, config.dim), config.views))
        self.config = config

    def inputs(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Pictures, and what is random about their views."""
        return batch["image_BHWC"], batch["draw_BVR"]

    def losses(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """NT-Xent over all workers' views."""
        return {"loss": nt_xent(outputs["first_BD"], outputs["second_BD"], self.config.temperature)}

    def describe(self, batch: Mapping[str, Tensor]) -> list[str]:
        """Where each picture's second view stands among those of the batch, nearest to its first one first."""
        outputs = self.module(*self.inputs(batch))
        cosine_BB = outputs["first_BD"] @ outputs["second_BD"].T
        place_B = (cosine_BB > cosine_BB.diagonal()[:, None]).sum(1) + 1
        return [f"its other view is number {place} of {len(cosine_BB)}" for place in place_B.tolist()]

    def pictures(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Both views of each picture, side by side."""
        views_BCHW = torch.cat(self.module.views_of(*self.inputs(batch)), 3)
        return views_BCHW.mul(255).round().permute(0, 2, 3, 1).byte()

    def measures(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``view_top1``: whether no other picture's second view is nearer to its first one than its own."""
        outputs = self.module(*self.inputs(batch))
        cosine_BB = outputs["first_BD"] @ outputs["second_BD"].T
        return {"view_top1": (cosine_BB <= cosine_BB.diagonal()[:, None]).all(1).float()}

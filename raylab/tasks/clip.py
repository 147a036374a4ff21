"""The baseline: pictures and their alt-texts as they came, with CLIP's loss (arXiv 2103.00020)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from raylab.models.contrastive import contrastive_loss
from raylab.models.dual_encoder import DualEncoder, DualEncoderConfig
from raylab.tasks.base import Arrays, Group, ImageInput, TaskContext, decayed

if TYPE_CHECKING:
    from torch import Tensor, nn

    from raylab.models.class_table import ClassTable

HIGHEST_LOGIT_SCALE = math.log(100)
"""CLIP's limit (section 2.5)."""


@dataclass(frozen=True)
class ClipTask:
    """A dual encoder on raw alt-texts."""

    encoder: DualEncoderConfig = field(default_factory=DualEncoderConfig)
    crop: str = "inception"
    """See `tasks.base.ImageInput`."""

    def collator(self, context: TaskContext) -> CaptionCollator:
        """See `tasks.base.TaskConfig`."""
        return CaptionCollator(self.encoder, image_input(self.encoder, self.crop))

    def learner(self, context: TaskContext) -> ClipLearner:
        """See `tasks.base.TaskConfig`."""
        return ClipLearner(self.encoder)


def image_input(encoder: DualEncoderConfig, crop: str) -> ImageInput:
    """Return the pictures that an encoder takes."""
    config = encoder.model_config()
    size = config["preprocess_cfg"].get("size") or config["model_cfg"]["vision_cfg"]["image_size"]
    return ImageInput(size if isinstance(size, int) else max(size), crop)


class CaptionCollator:
    """``token_BL`` int64: the caption."""

    columns: Sequence[str] = ("caption",)

    def __init__(self, encoder: DualEncoderConfig, image: ImageInput) -> None:
        self.encoder, self.image = encoder, image

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "tokenizer"}

    @cached_property
    def tokenizer(self) -> Any:
        """Loaded where it is used."""
        return self.encoder.tokenizer()

    def usable(self, rows: pa.Table) -> np.ndarray:
        """Rows with a caption."""
        length = pc.utf8_length(pc.utf8_trim_whitespace(rows["caption"]))
        return pc.fill_null(pc.greater(length, 0), False).to_numpy()

    def __call__(self, rows: pa.Table, draws: Sequence[np.random.Generator]) -> Arrays:
        """See `tasks.base.Collator`."""
        return {"token_BL": self.tokenizer(rows["caption"].to_pylist()).numpy()}


class ClipLearner:
    """See `tasks.base.Learner`."""

    table: ClassTable | None = None

    def __init__(self, encoder: DualEncoderConfig) -> None:
        self.encoder = encoder
        self.module: DualEncoder = encoder.build()

    def inputs(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """See `tasks.base.Learner`."""
        return batch["image_BHWC"], batch["token_BL"]

    def losses(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """CLIP's loss over all workers' rows."""
        loss = contrastive_loss(outputs["image_BD"], outputs["text_BD"], outputs["scale"])
        return {"loss": loss, "scale": outputs["scale"].detach()}

    def groups(self) -> list[Group]:
        """Matrices, and what is not decayed."""
        return dual_groups(self.module)

    def shard_units(self) -> list[nn.Module]:
        """See `tasks.base.Learner`."""
        return self.module.shard_units()

    def checkpoint_activations(self) -> None:
        """See `tasks.base.Learner`."""
        self.module.checkpoint_activations()

    def describe(self, batch: Mapping[str, Tensor]) -> list[str]:
        """Where each picture's own text stands among the batch's."""
        return own_places(self.module(*self.inputs(batch)))

    def after_step(self) -> None:
        """Keep the temperature within CLIP's limit."""
        with torch.no_grad():
            self.module.clip.logit_scale.clamp_(0, HIGHEST_LOGIT_SCALE)

    def save(self, folder: Path) -> None:
        """Write an open_clip folder."""
        self.encoder.save(self.module, folder)


def own_places(outputs: Mapping[str, Tensor]) -> list[str]:
    """Return where each picture's own text stands among all texts, nearest first."""
    cosine_BB = outputs["image_BD"] @ outputs["text_BD"].T
    place_B = (cosine_BB > cosine_BB.diagonal()[:, None]).sum(dim=1) + 1
    return [f"its own text is number {place} of {len(cosine_BB)}" for place in place_B.tolist()]


def dual_groups(module: DualEncoder) -> list[Group]:
    """Return a dual encoder's parameters: matrices, and what is not decayed."""
    matrices, others = decayed(module)
    return [Group("matrices", matrices, 1.0, decays=True), Group("others", others, 1.0, decays=False)]

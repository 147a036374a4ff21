"""The baseline: pictures and their alt-texts as they came, with CLIP's loss (arXiv 2103.00020)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raylab.models.contrastive import contrastive_loss
from raylab.models.dual_encoder import DualEncoderConfig
from raylab.tasks.base import Arrays, TaskContext
from raylab.tasks.dual import DualCollator, DualLearner, own_places

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ClipTask:
    """A dual encoder on raw alt-texts."""

    encoder: DualEncoderConfig = field(default_factory=DualEncoderConfig)
    crop: str = "inception"
    """See `tasks.base.ImageInput`."""

    def collator(self, context: TaskContext) -> CaptionCollator:
        """See `tasks.base.TaskConfig`."""
        return CaptionCollator(self.encoder, self.crop)

    def learner(self, context: TaskContext) -> ClipLearner:
        """See `tasks.base.TaskConfig`."""
        return ClipLearner(self.encoder)


class CaptionCollator(DualCollator):
    """``token_BL`` int64: the caption."""

    columns: Sequence[str] = ("caption",)

    def usable(self, rows: pa.Table) -> np.ndarray:
        """Rows with a caption."""
        length = pc.utf8_length(pc.utf8_trim_whitespace(rows["caption"]))
        return pc.fill_null(pc.greater(length, 0), False).to_numpy()

    def __call__(self, rows: pa.Table, draws: Sequence[np.random.Generator]) -> Arrays:
        """See `tasks.base.Collator`."""
        return {"token_BL": self.tokenizer(rows["caption"].to_pylist()).numpy()}


class ClipLearner(DualLearner):
    """See `tasks.base.Learner`."""

    def inputs(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """See `tasks.base.Learner`."""
        return batch["image_BHWC"], batch["token_BL"]

    def losses(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """CLIP's loss over all workers' rows."""
        loss = contrastive_loss(outputs["image_BD"], outputs["text_BD"], outputs["scale"])
        return {"loss": loss, "scale": outputs["scale"].detach()}

    def describe(self, batch: Mapping[str, Tensor]) -> list[str]:
        """Where each picture's own text stands among the batch's."""
        return own_places(self.module(*self.inputs(batch)))

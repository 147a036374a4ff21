"""MUG (arXiv 2301.07088): the rest of a picture and its caption from a part of it; either alone is a baseline.

With no weight on captions it is MAE (arXiv 2111.06377), with none on pixels masked captioning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from raylab.errors import RaylabError
from raylab.models.captioner import CaptionShape, Vocabulary
from raylab.models.distributed import mean
from raylab.models.mae import PixelShape, VitConfig
from raylab.models.mug import Mug
from raylab.models.text import Tokenizer, TokenizerConfig
from raylab.tasks.base import Arrays, ImageInput, TaskContext
from raylab.tasks.encoder import EncoderLearner, EncoderTask

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class WeightsConfig:
    """How much each part weighs; 0 leaves it out, and its decoder."""

    reconstruction: float = 1.0
    """The masked patches' pixels."""
    caption: float = 0.1
    """The caption's tokens. The paper tries several values; this one is our reading of arXiv 2301.07088."""


@dataclass(frozen=True)
class MugTask(EncoderTask):
    """Masked image and caption generation on pictures and alt-texts as they came."""

    encoder: VitConfig = field(default_factory=VitConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    pixels: PixelShape = field(default_factory=PixelShape)
    text: CaptionShape = field(default_factory=CaptionShape)
    weights: WeightsConfig = field(default_factory=WeightsConfig)
    masked: float = 0.75
    """Share of a picture's patches that is hidden (MAE's)."""
    crop: str = "mae"
    """See `tasks.base.ImageInput`."""

    def __post_init__(self) -> None:
        """Refuse settings by which nothing is learnt."""
        if not 0 <= self.masked < 1 or (self.masked == 0 and self.paints):
            raise RaylabError(f"task.masked={self.masked}: give a number above 0 and below 1.")
        if min(self.weights.reconstruction, self.weights.caption) < 0 or not (self.paints or self.writes):
            raise RaylabError("task.weights: none may be below 0, and one has to be above, or nothing is learnt.")

    @property
    def paints(self) -> bool:
        """Whether pixels are learnt."""
        return self.weights.reconstruction > 0

    @property
    def writes(self) -> bool:
        """Whether captions are learnt."""
        return self.weights.caption > 0

    def collator(self, context: TaskContext) -> PairCollator:
        """See `tasks.base.TaskConfig`."""
        return PairCollator(self)

    def learner(self, context: TaskContext) -> MugLearner:
        """See `tasks.base.TaskConfig`."""
        return MugLearner(self)

    def build(self) -> Mug:
        """Return the network."""
        text = None
        if self.writes:
            words = Tokenizer(self.tokenizer)
            text = self.text, Vocabulary(words.vocab, words.pad, words.start, words.end)
        return Mug.make(self.encoder, self.pixels if self.paints else None, text, self.masked)


class PairCollator:
    """``noise_BN`` float32, by which what is visible is chosen; where captions are learnt, ``token_BT`` int64."""

    def __init__(self, config: MugTask) -> None:
        self.config, self.patches = config, config.encoder.patches
        self.image: ImageInput = ImageInput(config.encoder.side, config.crop)
        self.tokenizer = Tokenizer(config.tokenizer)
        self.columns: Sequence[str] = ("caption",) if config.writes else ()

    def usable(self, rows: pa.Table) -> np.ndarray:
        """Rows with a caption, where captions are learnt."""
        if not self.config.writes:
            return np.ones(len(rows), bool)
        length = pc.utf8_length(pc.utf8_trim_whitespace(rows["caption"]))
        return pc.fill_null(pc.greater(length, 0), False).to_numpy()

    def __call__(self, rows: pa.Table, draws: Sequence[np.random.Generator]) -> Arrays:
        """See `tasks.base.Collator`."""
        noise = {"noise_BN": np.stack([draw.random(self.patches, np.float32) for draw in draws])}
        if not self.config.writes:
            return noise
        return noise | {"token_BT": self.tokenizer.answers(rows["caption"].to_pylist(), self.config.text.length)}


class MugLearner(EncoderLearner):
    """See `tasks.base.Learner`. What is visible of a picture follows from its place in the run's order."""

    module: Mug

    def __init__(self, config: MugTask) -> None:
        super().__init__(config.build())
        self.config = config

    def inputs(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Pictures, what is visible of them, and captions where they are learnt."""
        names = ("image_BHWC", "noise_BN", "token_BT") if self.config.writes else ("image_BHWC", "noise_BN")
        return tuple(batch[name] for name in names)

    def losses(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weighted sum, ``reconstruction`` and ``caption``.

        The first is the mean over masked patches, the second that over the tokens of all workers' captions in a pass.
        """
        parts: dict[str, Tensor] = {}
        if self.config.paints:
            parts["reconstruction"] = self.module.reconstruction_losses(outputs).mean()
        if self.module.captions is not None:
            loss_BT, counts_BT = self.module.captions.token_losses(outputs["logit_BTV"], batch["token_BT"])
            parts["caption"] = loss_BT.sum() / mean(counts_BT.sum()).clamp(min=1)
        weights = self.config.weights
        return {"loss": torch.stack([getattr(weights, name) * one for name, one in parts.items()]).sum(), **parts}

    def describe(self, batch: Mapping[str, Tensor]) -> list[str]:
        """The caption that it writes of what is visible and the right one; how much of the masked patches it paints."""
        said: list[list[str]] = [[] for _ in range(len(batch["image_BHWC"]))]
        if self.module.captions is not None:
            words = Tokenizer(self.config.tokenizer)
            image_BLD, _ = self.module.look(batch["image_BHWC"], batch["noise_BN"])
            written = words.text(self.module.captions.write(image_BLD, self._submit).tolist())
            right = words.text(batch["token_BT"].tolist())
            for row, one, other in zip(said, written, right):
                row.append(f"{one} (right: {other})")
        if self.module.pixels is not None:
            losses_B = self.module.reconstruction_losses(self.module(*self.inputs(batch)))
            for row, loss in zip(said, losses_B.tolist()):
                row.append(f"error of what was masked: {loss:.2f}")
        return ["; ".join(row) for row in said]

    def pictures(self, batch: Mapping[str, Tensor]) -> Tensor:
        """What is visible, that with the rest as it is painted, and the picture, side by side."""
        shown = [batch["image_BHWC"]]
        if self.module.pixels is not None:
            outputs = self.module(*self.inputs(batch))
            shown = [*self.module.painted(outputs["pixel_BNP"], shown[0], outputs["visible_BK"]), *shown]
        return torch.cat(shown, 2)

    def measures(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``caption_top1``: the share of a caption's tokens that are the likeliest, given the right ones before.

        ``explained``: the share of the masked patches' variance that is painted; below 0: worse than painting grey.
        """
        outputs, found = self.module(*self.inputs(batch)), dict[str, torch.Tensor]()
        if self.module.captions is not None:
            found["caption_top1"] = self.module.captions.right_shares(outputs["logit_BTV"], batch["token_BT"])
        if self.module.pixels is not None:
            found["explained"] = 1 - self.module.reconstruction_losses(outputs)
        return found

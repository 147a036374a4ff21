"""What all tasks of a dual encoder share: its tokenizer where rows are read, its upkeep where it is trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from raylab.models.dual_encoder import DualEncoder, DualEncoderConfig
from raylab.tasks.base import Group, ImageInput, decay_groups

if TYPE_CHECKING:
    from torch import Tensor, nn

    from raylab.models.class_table import ClassTable

HIGHEST_LOGIT_SCALE = math.log(100)
"""CLIP's limit (arXiv 2103.00020, section 2.5)."""


def image_input(encoder: DualEncoderConfig, crop: str) -> ImageInput:
    """Return the pictures that an encoder takes."""
    config = encoder.model_config()
    size = config["preprocess_cfg"].get("size") or config["model_cfg"]["vision_cfg"]["image_size"]
    return ImageInput(size if isinstance(size, int) else max(size), crop)


class DualCollator:
    """The readers' half: pictures for an encoder, texts by its tokenizer.

    Args:
        encoder: the model.
        crop: see `tasks.base.ImageInput`.
    """

    def __init__(self, encoder: DualEncoderConfig, crop: str) -> None:
        self.encoder = encoder
        self.image: ImageInput = image_input(encoder, crop)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "tokenizer"}

    @cached_property
    def tokenizer(self) -> Any:
        """Texts -> int64 [n, context length]; loaded where it is used."""
        return self.encoder.tokenizer()


class DualLearner:
    """The trainer's half, but for inputs, losses and what is said of pictures: see `tasks.base.Learner`.

    Args:
        encoder: the model.
    """

    table: ClassTable | None = None

    def __init__(self, encoder: DualEncoderConfig) -> None:
        self.encoder = encoder
        self.module: DualEncoder = encoder.build()

    def groups(self) -> list[Group]:
        """Matrices, and what is not decayed."""
        return decay_groups(self.module)

    def shard_units(self) -> list[nn.Module]:
        """See `tasks.base.Learner`."""
        return self.module.shard_units()

    def checkpoint_activations(self) -> None:
        """See `tasks.base.Learner`."""
        self.module.checkpoint_activations()

    def make_static(self, submit: Callable[[], None]) -> None:
        """See `tasks.base.Learner`."""
        if self.table is not None:
            self.table.sparse = False

    def after_step(self) -> None:
        """Keep the temperature within CLIP's limit."""
        with torch.no_grad():
            self.module.clip.logit_scale.clamp_(0, HIGHEST_LOGIT_SCALE)

    def save(self, folder: Path) -> None:
        """Write an open_clip folder; class vectors, where there are any, stay in the checkpoints."""
        self.encoder.save(self.module, folder)


def own_places(outputs: Mapping[str, Tensor]) -> list[str]:
    """Return where each picture's own text stands among all texts, nearest first."""
    cosine_BB = outputs["image_BD"] @ outputs["text_BD"].T
    place_B = (cosine_BB > cosine_BB.diagonal()[:, None]).sum(dim=1) + 1
    return [f"its own text is number {place} of {len(cosine_BB)}" for place in place_B.tolist()]

"""DeViSE (Frome et al., NeurIPS 2013): a linear map from pictures into a space in which names have their places.

Axes: B pictures, C classes, D the encoder's width, E the space's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import normalize

from raylab.models.dual_encoder import normalised
from raylab.models.image_encoder import save_encoder
from raylab.models.mae import VitConfig
from raylab.models.mae_weights import load_published

ABOUT, MAP = "devise.json", "map.safetensors"
"""In a model's folder, beside the encoder as timm has it."""
INIT_STD = 0.01
"""Of the map's first weights, as of MAE's linear probe; our choice."""


class Devise(nn.Module):
    """An encoder and a linear map without a bias, so that how long the encoder's vector is does not matter.

    Args:
        encoder: its shape and its weights.
        target_CE: float32, rows of length 1: where the classes' names lie; a number: of classes of a softmax instead.
        tunes: whether the encoder learns too.
    """

    mean: Tensor
    std: Tensor
    target_CE: Tensor | None

    def __init__(self, encoder: VitConfig, target_CE: Tensor | int, *, tunes: bool) -> None:
        super().__init__()
        self.vit: VisionTransformer = encoder.build()
        if encoder.weights:
            load_published(encoder.name, encoder.weights, self.vit, None)
        if not tunes:
            self.vit.requires_grad_(False)
        self.tunes = tunes
        target, size = (None, target_CE) if isinstance(target_CE, int) else (target_CE, target_CE.shape[1])
        self.register_buffer("target_CE", target, persistent=False)
        self.map = nn.Linear(self.vit.num_features, size, bias=False)
        nn.init.trunc_normal_(self.map.weight, std=INIT_STD)
        for name, values in (("mean", IMAGENET_DEFAULT_MEAN), ("std", IMAGENET_DEFAULT_STD)):
            self.register_buffer(name, torch.tensor(values).view(1, -1, 1, 1), persistent=False)

    def forward(self, image_BHWC: Tensor) -> dict[str, Tensor]:
        """Return ``logit_BC``, float32: cosines with names, beside ``image_BD`` ([B, E], rows of length 1); or logits.

        Args:
            image_BHWC: uint8 [B, H, W, 3].
        """
        with torch.set_grad_enabled(self.tunes and torch.is_grad_enabled()):
            vector_BD = self.vit(normalised(image_BHWC, self.mean, self.std))
        mapped_BE = self.map(vector_BD).float()
        if self.target_CE is None:
            return {"logit_BC": mapped_BE}
        image_BE = normalize(mapped_BE, dim=-1)
        with torch.autocast(image_BE.device.type, enabled=False):  # bfloat16 is too coarse beside the margin
            return {"image_BD": image_BE, "logit_BC": image_BE @ self.target_CE.T}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep block inputs alone for the backward pass, and compute the rest again."""
        self.vit.set_grad_checkpointing(enable and self.tunes)

    def shard_units(self) -> list[nn.Module]:
        """Return the encoder's blocks."""
        return list(self.vit.blocks)

    def save(self, folder: Path, about: Mapping[str, Any]) -> None:
        """Write the encoder as timm reads it, the map, and what `about` says: the space or the classes."""
        save_encoder(self.vit, folder, self.mean.flatten().tolist(), self.std.flatten().tolist())
        save_file({"weight": self.map.weight.detach().float().contiguous().cpu()}, folder / MAP)
        (folder / ABOUT).write_text(json.dumps(dict(about), indent=1, ensure_ascii=False) + "\n", "utf-8")


def rank_losses(cosine_BC: Tensor, class_B: Tensor, chance_B: Tensor, margin: float) -> Tensor:
    """Return float32 [B]: by how much the first false class in a random order comes within `margin` of the true one.

    The sum over false classes, in random order, is cut after the first term above zero. That one is any of those above
    zero, each as likely as the others: so one number decides, and no order is drawn.

    Args:
        cosine_BC: float32, of a picture's vector with each class's.
        class_B: int64, the true class.
        chance_B: float32 in [0, 1): which of them is the first.
        margin: 0.1 in the paper.
    """
    own_B1 = class_B[:, None]
    hinge_BC = (margin - cosine_BC.gather(1, own_B1) + cosine_BC).scatter(1, own_B1, 0.0).clamp(min=0)
    number_BC = (hinge_BC > 0).cumsum(1)  # of those above zero, from 1
    wanted_B1 = (chance_B[:, None] * number_BC[:, -1:]).floor() + 1
    first_BC = (hinge_BC > 0) & (number_BC == wanted_B1)
    return (hinge_BC * first_BC).sum(1)

"""A vision transformer with a head over classes: tuned as a whole, or frozen below a linear map (arXiv 2111.06377).

Axes: B pictures, C classes, D width.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from raylab.models.dual_encoder import normalised
from raylab.models.image_encoder import save_encoder
from raylab.models.mae import VitConfig
from raylab.models.mae_weights import load_published
from raylab.models.mixing import mix

TUNED_STD, LINEAR_STD = 2e-5, 0.01
"""Of the head's first weights (facebookresearch/mae: main_finetune.py, main_linprobe.py)."""
BATCH_NORM_EPS = 1e-6
"""Of the linear probe (facebookresearch/mae: main_linprobe.py)."""


class Classifier(nn.Module):
    """All of it learns: the encoder, a norm behind the mean of the patches' tokens, a linear map.

    Args:
        encoder: its shape, and the weights that it begins with; norm and head begin anew.
        classes: how many.
        drop_path: share of the last block's branches that are left out in training; fewer before it.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: VitConfig, classes: int, drop_path: float) -> None:
        super().__init__()
        self.vit: VisionTransformer = _encoder(
            encoder, num_classes=classes, global_pool="avg", fc_norm=True, drop_path_rate=drop_path
        )
        assert self.vit.pos_embed is not None
        assert isinstance(self.vit.head, nn.Linear)
        self.vit.pos_embed.requires_grad_(True)
        nn.init.trunc_normal_(self.vit.head.weight, std=TUNED_STD)
        _register_pixels(self)

    def forward(self, image_BHWC: Tensor, mix_BR: Tensor) -> dict[str, Tensor]:
        """Return ``logit_BC``, in training of mixed pictures.

        Args:
            image_BHWC: uint8 [B, H, W, 3].
            mix_BR: see `mixing.MixConfig.draw`.
        """
        image_BCHW = normalised(image_BHWC, self.mean, self.std)
        if self.training:
            image_BCHW = mix(image_BCHW, mix_BR)
        return {"logit_BC": self.vit(image_BCHW)}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep block inputs alone for the backward pass, and compute the rest again."""
        self.vit.set_grad_checkpointing(enable)

    def shard_units(self) -> list[nn.Module]:
        """Return the encoder's blocks."""
        return list(self.vit.blocks)

    def save(self, folder: Path, names: Mapping[str, str]) -> None:
        """Write it as timm reads it, with its head.

        Args:
            folder: made where it is missing.
            names: of the classes, in their order: id -> title.
        """
        save_encoder(self.vit, folder, self.mean.flatten().tolist(), self.std.flatten().tolist(), names)


class LinearProbe(nn.Module):
    """The encoder rests; its class token (or what the encoder's `pool` says), set to mean 0 and deviation 1, is mapped.

    Mean and deviation are those of a worker's rows in a pass.

    Args:
        encoder: its shape and its weights.
        classes: how many.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: VitConfig, classes: int) -> None:
        super().__init__()
        self.vit: VisionTransformer = _encoder(encoder)
        self.vit.requires_grad_(False)
        self.norm = nn.BatchNorm1d(self.vit.num_features, affine=False, eps=BATCH_NORM_EPS)
        self.head = nn.Linear(self.vit.num_features, classes)
        nn.init.trunc_normal_(self.head.weight, std=LINEAR_STD)
        nn.init.zeros_(self.head.bias)
        _register_pixels(self)

    def forward(self, image_BHWC: Tensor) -> dict[str, Tensor]:
        """Return ``logit_BC``.

        Args:
            image_BHWC: uint8 [B, H, W, 3].
        """
        with torch.no_grad():
            vector_BD = self.vit(normalised(image_BHWC, self.mean, self.std))
        return {"logit_BC": self.head(self.norm(vector_BD.float()))}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Nothing of a network that rests is kept for the backward pass."""

    def shard_units(self) -> list[nn.Module]:
        """Return the encoder's blocks."""
        return list(self.vit.blocks)

    def save(self, folder: Path, names: Mapping[str, str]) -> None:
        """Write it as timm reads it; the head then also does what the norm does. Arguments as of `Classifier.save`."""
        vit = copy.deepcopy(self.vit)
        vit.reset_classifier(self.head.out_features)
        assert isinstance(vit.head, nn.Linear)
        assert self.norm.running_mean is not None
        assert self.norm.running_var is not None
        weight_CD = self.head.weight / (self.norm.running_var + self.norm.eps).sqrt()
        vit.head.load_state_dict({"weight": weight_CD, "bias": self.head.bias - weight_CD @ self.norm.running_mean})
        save_encoder(vit, folder, self.mean.flatten().tolist(), self.std.flatten().tolist(), names)


def _encoder(encoder: VitConfig, **settings: object) -> VisionTransformer:
    vit = encoder.build(**settings)
    if encoder.weights:
        load_published(encoder.name, encoder.weights, vit, None)
    return vit


def _register_pixels(module: nn.Module) -> None:
    for name, values in (("mean", IMAGENET_DEFAULT_MEAN), ("std", IMAGENET_DEFAULT_STD)):
        module.register_buffer(name, torch.tensor(values).view(1, -1, 1, 1), persistent=False)

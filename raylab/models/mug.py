"""MUG (arXiv 2301.07088): an encoder sees a part of a picture; one decoder paints the rest, one writes the caption.

Without the text decoder it is MAE (arXiv 2111.06377), without the pixels' it is masked captioning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from raylab.models.captioner import CaptionDecoder, CaptionShape, Vocabulary
from raylab.models.dual_encoder import normalised
from raylab.models.image_encoder import save_encoder
from raylab.models.mae import (
    PixelDecoder,
    PixelShape,
    VitConfig,
    encode_visible,
    normalised_patches,
    reconstruction_losses,
    visible_places,
)
from raylab.models.mae_weights import OF_TIMM, load_published

IMAGENET = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
"""Of pixels, as MAE has them."""


class Mug(nn.Module):
    """The network. It takes raw pixels; what is visible of each picture is drawn by torch's generator.

    Args:
        vit: the encoder.
        pixels: paints; None: nothing is painted.
        captions: writes; None: nothing is written.
        keep: patches of a picture that the encoder sees.
        pixel: mean and deviation of pixel values, a colour each.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        vit: VisionTransformer,
        pixels: PixelDecoder | None,
        captions: CaptionDecoder | None,
        *,
        keep: int,
        pixel: tuple[Sequence[float], Sequence[float]] = IMAGENET,
    ) -> None:
        super().__init__()
        self.vit: VisionTransformer = vit
        self.pixels: PixelDecoder | None = pixels
        self.captions: CaptionDecoder | None = captions
        self.keep, self.patches = keep, vit.patch_embed.num_patches
        self.side = vit.patch_embed.patch_size[0]
        self._saves_memory = False
        for name, values in zip(("mean", "std"), pixel):
            self.register_buffer(name, torch.tensor(values).view(1, -1, 1, 1), persistent=False)

    @classmethod
    def make(
        cls,
        encoder: VitConfig,
        pixels: PixelShape | None,
        captions: tuple[CaptionShape, Vocabulary] | None,
        masked: float,
    ) -> Mug:
        """Return the network with the weights that `encoder` names; the others are random.

        Args:
            encoder: see there.
            pixels: the decoder that paints, if any; published weights that have one bring it.
            captions: the decoder that writes, if any.
            masked: share of patches that are hidden; what is visible is rounded down, as in MAE.

        Raises:
            RaylabError: see `VitConfig.build` and `mae_weights.load_published`.
        """
        vit = encoder.build()
        painter = PixelDecoder(pixels, vit) if pixels else None
        if encoder.weights:
            load_published(encoder.name, encoder.weights, vit, painter)
        writer = CaptionDecoder(*captions, vit.embed_dim) if captions else None
        keep = max(1, int(vit.patch_embed.num_patches * (1 - masked)))
        settings: Any = vit.pretrained_cfg
        pixel = (settings["mean"], settings["std"]) if encoder.weights == OF_TIMM else IMAGENET
        return cls(vit, painter, writer, keep=keep, pixel=pixel)

    def forward(
        self, image_BHWC: Tensor, token_BT: Tensor | None = None, noise_BN: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Look at a part of each picture.

        Args:
            image_BHWC: uint8 [B, H, W, 3].
            token_BT: int64, captions: start, words, end, padding; where captions are written.
            noise_BN: float, which decides what is visible; None: drawn here.

        Returns:
            ``visible_BK`` (int64), with pixels ``pixel_BNP``, with captions ``logit_BTV``.
        """
        image_BLD, visible_BK = self.look(image_BHWC, noise_BN)
        outputs = {"visible_BK": visible_BK}
        if self.pixels is not None:
            outputs["pixel_BNP"] = self.pixels(image_BLD, visible_BK, self._saves_memory)
        if self.captions is not None:
            outputs["logit_BTV"] = self.captions(image_BLD, token_BT, self._saves_memory)
        return outputs

    def look(self, image_BHWC: Tensor, noise_BN: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the encoder's tokens of what is visible, and what that is; arguments as in `forward`."""
        if noise_BN is None:
            noise_BN = torch.rand(len(image_BHWC), self.patches, device=image_BHWC.device)
        visible_BK = visible_places(noise_BN, self.keep)
        image_BCHW = normalised(image_BHWC, self.mean, self.std)
        return encode_visible(self.vit, image_BCHW, visible_BK, self._saves_memory), visible_BK

    def reconstruction_losses(self, outputs: Mapping[str, Tensor], image_BHWC: Tensor) -> Tensor:
        """Return float32 [B]: each picture's error over its masked patches; 1 is that of painting patches grey."""
        target_BNP = normalised_patches(normalised(image_BHWC, self.mean, self.std), self.side)
        return reconstruction_losses(outputs["pixel_BNP"], target_BNP, outputs["visible_BK"])

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep block inputs alone for the backward pass, and compute the rest again."""
        self._saves_memory = enable

    def shard_units(self) -> list[nn.Module]:
        """Return the blocks of encoder and decoders."""
        found = list(self.vit.blocks)
        if self.pixels is not None:
            found += self.pixels.blocks
        return found + (list(self.captions.layers) if self.captions is not None else [])

    def save(self, folder: Path) -> None:
        """Write the encoder as timm reads it: decoders are for pretraining alone."""
        save_encoder(self.vit, folder, self.mean.flatten().tolist(), self.std.flatten().tolist())

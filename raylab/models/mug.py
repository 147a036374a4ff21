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
from raylab.models.dual_encoder import normalised, unnormalised
from raylab.models.image_encoder import save_encoder
from raylab.models.mae import (
    PixelDecoder,
    PixelShape,
    VitConfig,
    encode_visible,
    joined,
    like,
    masked_places,
    normalised_patches,
    patches,
    reconstruction_losses,
    visible_places,
)
from raylab.models.mae_weights import OF_TIMM, load_published

IMAGENET = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
"""Of pixels, as MAE has them."""


class Mug(nn.Module):
    """The network. It takes raw pixels, and numbers by which it is decided what is visible of each picture.

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

    def forward(self, image_BHWC: Tensor, noise_BN: Tensor, token_BT: Tensor | None = None) -> dict[str, Tensor]:
        """Look at a part of each picture.

        Args:
            image_BHWC: uint8 [B, H, W, 3].
            noise_BN: float; the patches with the least are visible.
            token_BT: int64, captions: start, words, end, padding; where captions are written.

        Returns:
            ``visible_BK`` (int64), with pixels ``pixel_BNP`` and ``target_BNP``, with captions ``logit_BTV``.
        """
        patch_BNP = self._patches(image_BHWC)
        image_BLD, visible_BK = self._look(patch_BNP, noise_BN)
        outputs = {"visible_BK": visible_BK}
        if self.pixels is not None:
            outputs["pixel_BNP"] = self.pixels(image_BLD, visible_BK, self._saves_memory)
            outputs["target_BNP"] = normalised_patches(patch_BNP)
        if self.captions is not None:
            outputs["logit_BTV"] = self.captions(image_BLD, token_BT, self._saves_memory)
        return outputs

    def look(self, image_BHWC: Tensor, noise_BN: Tensor) -> tuple[Tensor, Tensor]:
        """Return the encoder's tokens of what is visible, and what that is; arguments as in `forward`."""
        return self._look(self._patches(image_BHWC), noise_BN)

    def _patches(self, image_BHWC: Tensor) -> Tensor:
        """Return float32 [B, N, P]."""
        return patches(normalised(image_BHWC, self.mean, self.std), self.side)

    def _look(self, patch_BNP: Tensor, noise_BN: Tensor) -> tuple[Tensor, Tensor]:
        visible_BK = visible_places(noise_BN, self.keep)
        return encode_visible(self.vit, patch_BNP, visible_BK, self._saves_memory), visible_BK

    def reconstruction_losses(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Return float32 [B]: each picture's error over its masked patches; 1 is that of painting patches grey."""
        return reconstruction_losses(outputs["pixel_BNP"], outputs["target_BNP"], outputs["visible_BK"])

    def painted(self, pixel_BNP: Tensor, image_BHWC: Tensor, visible_BK: Tensor) -> tuple[Tensor, Tensor]:
        """Return two pictures of each, uint8 [B, H, W, 3]: what is visible, the rest grey; and with the rest painted.

        What is painted has no light and no contrast of its own: each patch gets those of the true one.
        """
        hidden_BN1 = masked_places(visible_BK, self.patches)[..., None]
        true_BNP = self._patches(image_BHWC)
        both = (true_BNP * (1 - hidden_BN1), torch.lerp(true_BNP, like(pixel_BNP, true_BNP), hidden_BN1))
        _, height, width, _ = image_BHWC.shape
        seen_BHWC, full_BHWC = (
            unnormalised(joined(one_BNP, (height, width), self.side), self.mean, self.std) for one_BNP in both
        )
        return seen_BHWC, full_BHWC

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

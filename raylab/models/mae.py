"""Masked autoencoding (MAE, arXiv 2111.06377): an encoder sees a part of a picture, a decoder paints the rest.

Axes: B pictures, N patches of a picture, K visible ones, L tokens of the encoder (its class token, then K), D width,
P values of a patch (side * side * 3, colour last).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from timm.layers import LayerNorm, PatchEmbed, build_sincos2d_pos_embed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from raylab.errors import RaylabError, nearest

INIT_STD = 0.02
"""Of class token and mask token (facebookresearch/mae)."""
VARIANCE_EPS = 1e-6
"""Added to a target patch's variance (facebookresearch/mae)."""
POOLS = ("token", "avg")


@dataclass(frozen=True)
class VitConfig:
    """Which vision transformer of timm, and what it begins with."""

    name: str = "vit_base_patch16_224"
    """A vision transformer of timm (``timm.list_models("vit_*")``), with or without the tag of its weights."""
    image_size: int = 0
    """Pixels a side; 0: as the name says. So are the others."""
    patch: int = 0
    """Pixels of a patch's side."""
    width: int = 0
    """Of its tokens."""
    layers: int = 0
    """Blocks."""
    heads: int = 0
    """Of attention."""
    pool: str = "token"
    """What a trained encoder's vector is: ``token``, the class token, as in MAE's linear probe, or ``avg``, the mean of
    the patches' tokens."""
    weights: str = ""
    """What it begins with: a training run's folder, a file with MAE's published weights or timm's
    (mae_pretrain_vit_base.pth), a folder of timm, a folder or a hub's name of a ViTMAE (facebook/vit-mae-base), or
    ``timm``: the weights of the name's tag. Empty: random."""

    def __post_init__(self) -> None:
        """Refuse a way of pooling that is not known."""
        if self.pool not in POOLS:
            raise RaylabError(f"encoder.pool {self.pool!r} is not known: {', '.join(POOLS)}.")

    def build(self, **settings: Any) -> VisionTransformer:
        """Return the network, random weights by torch's present seed as MAE draws them; `mae_weights` loads others.

        Its positions are fixed: MAE's sines and cosines, or what weights bring.

        Args:
            settings: other ones than those of a bare encoder, for `timm.create_model`.

        Raises:
            RaylabError: no such network (the nearest is named), or none of this shape.
        """
        import timm

        self._check_name()
        bare: dict[str, Any] = {"num_classes": 0, "global_pool": self.pool, "fc_norm": False}
        try:
            found = timm.create_model(self.name, **(bare | settings | self._shape()))
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:
            raise RaylabError(f"encoder {self.name} cannot be built with {self._shape()}: {error}") from error
        vit = cast(VisionTransformer, found)
        (side, _), (patch, _) = vit.patch_embed.img_size, vit.patch_embed.patch_size
        if side % patch:
            raise RaylabError(f"encoder: pictures of {side} pixels cannot be cut into patches of {patch}.")
        if vit.pos_embed is None:
            raise RaylabError(f"encoder.name {self.name}: it has no positions of its own, so no patch can be left out.")
        initialise(vit)
        first = vit.pos_embed.shape[1] - vit.patch_embed.num_patches
        vit.pos_embed.data = sines(vit.patch_embed.grid_size, vit.embed_dim, first)
        vit.pos_embed.requires_grad_(False)
        return vit

    @property
    def patches(self) -> int:
        """Patches of a picture; nothing is computed to count them.

        Raises:
            RaylabError: see `build`.
        """
        with torch.device("meta"):
            return self.build().patch_embed.num_patches

    @property
    def side(self) -> int:
        """Pixels a side of its pictures.

        Raises:
            RaylabError: see `build`.
        """
        import timm

        if self.image_size:
            return self.image_size
        self._check_name()
        settings = timm.get_pretrained_cfg(self.name)
        assert settings is not None, f"timm knows {self.name}, and nothing of it"
        return int(settings.input_size[-1])

    def _check_name(self) -> None:
        import timm

        known, name = timm.list_models(module="vision_transformer"), self.name.partition(".")[0]
        if name not in known:
            raise RaylabError(f"encoder.name {self.name!r} is no vision transformer of timm.{nearest(name, known)}")

    def _shape(self) -> dict[str, Any]:
        named = {
            "img_size": self.image_size,
            "patch_size": self.patch,
            "embed_dim": self.width,
            "depth": self.layers,
            "num_heads": self.heads,
        }
        return {name: value for name, value in named.items() if value}


def initialise(module: nn.Module) -> None:
    """Draw weights as facebookresearch/mae does: Xavier's for matrices and for the patches' map, no biases."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(part.weight.detach().view(len(part.weight), -1))
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    for name in ("cls_token", "reg_token"):
        if isinstance(token := getattr(module, name, None), nn.Parameter):
            nn.init.normal_(token, std=INIT_STD)


def sines(grid: tuple[int, int], width: int, first: int) -> Tensor:
    """Return MAE's two-dimensional positions, float32 [1, first + N, width]: the column's half, then the row's.

    Args:
        grid: patches down and across.
        width: a multiple of 4.
        first: tokens before the patches, whose positions are zeros.

    Raises:
        RaylabError: another width.
    """
    if width % 4:
        raise RaylabError(f"width {width}: sines and cosines of rows and columns need a multiple of 4.")
    position_ND = build_sincos2d_pos_embed(list(grid), width, interleave_sin_cos=True).roll(width // 2, 1)
    return nn.functional.pad(position_ND, (0, 0, first, 0))[None]


def visible_places(noise_BN: Tensor, keep: int) -> Tensor:
    """Return int64 [B, keep]: the patches with the least noise, so that each set is as likely as any other."""
    return noise_BN.argsort(1)[:, :keep]


def masked_places(visible_BK: Tensor, patches: int) -> Tensor:
    """Return float32 [B, N]: 1 where a patch was masked, 0 where it was visible."""
    mask_BN = torch.ones(len(visible_BK), patches, device=visible_BK.device)
    return mask_BN.scatter(1, visible_BK, 0.0)


def encode_visible(vit: VisionTransformer, patch_BNP: Tensor, visible_BK: Tensor, saves_memory: bool) -> Tensor:
    """Return token_BLD behind the final norm: the class token, then the visible patches in the order of `visible_BK`.

    As timm's ``forward_features``, which embeds all patches and then drops some; what is dropped is not embedded here.

    Args:
        vit: the encoder.
        patch_BNP: `patches` of normalised pictures.
        visible_BK: int64, which patches it sees.
        saves_memory: compute each block again in the backward pass.
    """
    seen_BKP = patch_BNP.gather(1, visible_BK[..., None].expand(-1, -1, patch_BNP.shape[-1]))
    seen_BKD = embed_patches(vit.patch_embed, seen_BKP)
    empty_1ND = patch_BNP.new_zeros(1, patch_BNP.shape[1], vit.embed_dim)
    first_1FD, place_1ND = vit._pos_embed(empty_1ND).tensor_split([vit.num_prefix_tokens], 1)
    placed_BKD = seen_BKD + place_1ND[0][visible_BK]
    x_BLD = vit.norm_pre(torch.cat([first_1FD.expand(len(seen_BKD), -1, -1), placed_BKD], 1))
    for block in vit.blocks:
        x_BLD = run_block(block, saves_memory, x_BLD)
    return vit.norm(x_BLD)


def embed_patches(embed: PatchEmbed, patch_BKP: Tensor) -> Tensor:
    """Return patch_BKD: what timm's convolution, whose stride is its side, makes of patches that are cut already."""
    weight_DP = embed.proj.weight.permute(0, 2, 3, 1).flatten(1)
    return embed.norm(nn.functional.linear(patch_BKP, weight_DP, embed.proj.bias))


def run_block(block: nn.Module, saves_memory: bool, *arguments: Any) -> Tensor:
    """Return a block's output, keeping its inputs alone for the backward pass where memory is saved."""
    if saves_memory and block.training:
        return checkpoint(block, *arguments, use_reentrant=False)
    return block(*arguments)


@dataclass(frozen=True)
class PixelShape:
    """The decoder that paints; the defaults are MAE's (arXiv 2111.06377, table 1)."""

    width: int = 512
    layers: int = 8
    heads: int = 16


class PixelDecoder(nn.Module):
    """The encoder's tokens in, all patches out; masked ones begin as the same learnt token, told apart by position.

    Args:
        shape: see there.
        vit: whose tokens it takes.
    """

    position: Tensor
    blocks: Any
    """An nn.ModuleList of timm's `Block`."""

    def __init__(self, shape: PixelShape, vit: VisionTransformer) -> None:
        super().__init__()
        if shape.width % shape.heads:
            raise RaylabError(f"pixels.width {shape.width} is not a multiple of pixels.heads {shape.heads}.")
        self.first, self.patches = vit.num_prefix_tokens, vit.patch_embed.num_patches
        self.embed = nn.Linear(vit.embed_dim, shape.width)
        self.mask = nn.Parameter(torch.empty(1, 1, shape.width))
        self.blocks = nn.ModuleList(Block(shape.width, shape.heads, qkv_bias=True) for _ in range(shape.layers))
        self.norm = LayerNorm(shape.width)
        self.output = nn.Linear(shape.width, 3 * vit.patch_embed.patch_size[0] * vit.patch_embed.patch_size[1])
        position = sines(vit.patch_embed.grid_size, shape.width, self.first)
        self.register_buffer("position", position, persistent=False)
        initialise(self)
        nn.init.normal_(self.mask, std=INIT_STD)

    def forward(self, token_BLD: Tensor, visible_BK: Tensor, saves_memory: bool = False) -> Tensor:
        """Return pixel_BNP: what stands in each patch, visible ones too, in units of `normalised_patches`."""
        x_BLD = self.embed(token_BLD)
        place_BKD = visible_BK[..., None].expand(-1, -1, x_BLD.shape[-1])
        empty_BND = self.mask.to(x_BLD.dtype).expand(len(x_BLD), self.patches, -1)
        patch_BND = empty_BND.scatter(1, place_BKD, x_BLD[:, self.first :])
        x_BLD = torch.cat([x_BLD[:, : self.first], patch_BND], 1) + self.position
        for block in self.blocks:
            x_BLD = run_block(block, saves_memory, x_BLD)
        return self.output(self.norm(x_BLD[:, self.first :]))


def patches(image_BCHW: Tensor, side: int) -> Tensor:
    """Return a picture's patches, [B, N, P]: row by row; within each row by row, colours last."""
    batch, colours, height, width = image_BCHW.shape
    cut = image_BCHW.reshape(batch, colours, height // side, side, width // side, side)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, side * side * colours)


def joined(value_BNP: Tensor, size: tuple[int, int], side: int) -> Tensor:
    """Undo `patches`: return pictures of `size` (height, width), [B, 3, H, W]."""
    height, width = size
    cut = value_BNP.unflatten(-1, (side, side, -1)).unflatten(1, (height // side, width // side))
    return cut.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def like(pixel_BNP: Tensor, true_BNP: Tensor) -> Tensor:
    """Undo `normalised_patches`: return patches with mean and deviation of the true ones."""
    variance_BN1, mean_BN1 = torch.var_mean(true_BNP, -1, keepdim=True)
    return pixel_BNP.float() * (variance_BN1 + VARIANCE_EPS).sqrt() + mean_BN1


def normalised_patches(patch_BNP: Tensor) -> Tensor:
    """Return the targets, float32 [B, N, P]: each patch less its mean, by its deviation (arXiv 2111.06377, 4.1)."""
    variance_BN1, mean_BN1 = torch.var_mean(patch_BNP, -1, keepdim=True)
    return (patch_BNP - mean_BN1) / (variance_BN1 + VARIANCE_EPS).sqrt()


def reconstruction_losses(pixel_BNP: Tensor, target_BNP: Tensor, visible_BK: Tensor) -> Tensor:
    """Return float32 [B]: the mean squared error over each picture's masked patches."""
    error_BN = (pixel_BNP.float() - target_BNP).square().mean(-1)
    mask_BN = masked_places(visible_BK, error_BN.shape[1])
    return (error_BN * mask_BN).sum(1) / mask_BN.sum(1)

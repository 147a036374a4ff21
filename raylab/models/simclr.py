"""SimCLR (arXiv 2002.05709) on a vision transformer: two views of a picture are to be near, all others far."""

from __future__ import annotations

from pathlib import Path

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from raylab.models.augment import ViewConfig, view
from raylab.models.distributed import gather, rank, world
from raylab.models.image_encoder import save_encoder


class SimClr(nn.Module):
    """The network. It takes raw pixels and random numbers, and makes two views of each picture itself.

    Args:
        vit: the encoder.
        widths: of the projection's hidden layer and of its vectors. It has no batch statistics (ours), so that rows do
            not depend on each other.
        views: how they differ.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, vit: VisionTransformer, widths: tuple[int, int], views: ViewConfig) -> None:
        super().__init__()
        self.vit: VisionTransformer = vit
        self.views, self.side = views, vit.patch_embed.img_size[0]
        self.project = nn.Sequential(
            nn.Linear(vit.embed_dim, widths[0]), nn.GELU(), nn.Linear(widths[0], widths[1], bias=False)
        )
        for name, values in (("mean", IMAGENET_DEFAULT_MEAN), ("std", IMAGENET_DEFAULT_STD)):
            self.register_buffer(name, torch.tensor(values).view(1, -1, 1, 1), persistent=False)

    def forward(self, image_BHWC: Tensor, draw_BVR: Tensor) -> dict[str, Tensor]:
        """Return ``first_BD`` and ``second_BD``: unit vectors of two views (float32).

        Args:
            image_BHWC: uint8 [B, H, W, 3], larger than the encoder's pictures.
            draw_BVR: float [B, 2, `augment.DRAWS`], of 0..1: what is random about either view.
        """
        views = torch.cat(self.views_of(image_BHWC, draw_BVR))
        vector_ND = self.project(self.vit((views - self.mean) / self.std))
        first_BD, second_BD = normalize(vector_ND.float(), dim=-1).chunk(2)
        return {"first_BD": first_BD, "second_BD": second_BD}

    def views_of(self, image_BHWC: Tensor, draw_BVR: Tensor) -> list[Tensor]:
        """Return the first and the second views, float [B, 3, H, W] of 0..1; arguments as in `forward`."""
        image_BCHW = image_BHWC.permute(0, 3, 1, 2).float().div(255)
        return [view(image_BCHW, draw_BR, self.side, self.views) for draw_BR in draw_BVR.unbind(1)]

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep block inputs alone for the backward pass, and compute the rest again."""
        self.vit.set_grad_checkpointing(enable)

    def shard_units(self) -> list[nn.Module]:
        """Return the encoder's blocks."""
        return list(self.vit.blocks)

    def save(self, folder: Path) -> None:
        """Write the encoder as timm reads it: the projection is for pretraining alone."""
        save_encoder(self.vit, folder, self.mean.flatten().tolist(), self.std.flatten().tolist())


def nt_xent(first_BD: Tensor, second_BD: Tensor, temperature: float) -> Tensor:
    """Return NT-Xent over all workers' views (arXiv 2002.05709, equation 1): this worker's mean, a number in float32.

    Args:
        first_BD: float32, rows of length 1.
        second_BD: the other view of each.
        temperature: cosines are divided by it.
    """
    batch, everywhere = len(first_BD), len(first_BD) * world()
    mine_ND = torch.cat([first_BD, second_BD])
    all_MD = torch.cat([gather(first_BD), gather(second_BD)])
    own_B = torch.arange(batch, device=first_BD.device) + rank() * batch
    self_N, other_N = torch.cat([own_B, own_B + everywhere]), torch.cat([own_B + everywhere, own_B])
    logit_NM = (mine_ND @ all_MD.T / temperature).scatter(1, self_N[:, None], -torch.inf)
    return cross_entropy(logit_NM, other_N)

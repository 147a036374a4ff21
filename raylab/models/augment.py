"""Random views of pictures on the device that trains: part, mirror image and colours of each are drawn beforehand.

After SimCLR (arXiv 2002.05709, appendix A). Its hue and blur are left out, and colours change in one order: our choice.
All is done on tensors of one size, so that no data decides a program.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

GREY = (0.299, 0.587, 0.114)
"""Weights of the colours in a picture's light (ITU-R BT.601)."""
RATIOS = (3 / 4, 4 / 3)
"""Of a part's sides."""
DRAWS = 10
"""Random numbers that a view takes."""


@dataclass(frozen=True)
class ViewConfig:
    """How far views differ."""

    least_area: float = 0.08
    """Of a part, as a share of the picture."""
    jitter: float = 0.8
    """How far brightness, contrast and saturation are from 1 at most."""
    jittered: float = 0.8
    """Share of views whose colours change."""
    grey: float = 0.2
    """Share of views that have no colours."""


def view(image_BCHW: Tensor, draw_BR: Tensor, side: int, config: ViewConfig) -> Tensor:
    """Return a view of each picture, float [B, 3, side, side] of 0..1.

    Args:
        image_BCHW: float, 0..1.
        draw_BR: float, `DRAWS` numbers of 0..1 for each.
        side: pixels.
        config: see there.
    """
    place_5B, colour_5B = draw_BR.T.split(DRAWS // 2)
    with torch.autocast(image_BCHW.device.type, enabled=False):  # pixels have eight bits, as bfloat16's fractions do
        down_BSH, across_BSW = _places(image_BCHW, place_5B, side, config.least_area)
        part_BCSW = down_BSH[:, None] @ image_BCHW
        return _recoloured(part_BCSW @ across_BSW.transpose(1, 2)[:, None], colour_5B, config)


def _places(image_BCHW: Tensor, draw_5B: Tensor, side: int, least_area: float) -> tuple[Tensor, Tensor]:
    """Return how rows and columns of a random part of each picture are made of the picture's: [B, S, H], [B, S, W]."""
    height, width = image_BCHW.shape[2:]
    area_B, ratio_B, left_B, top_B, mirror_B = draw_5B
    area_B = least_area + (1 - least_area) * area_B
    low, high = (math.log(ratio) for ratio in RATIOS)
    ratio_B = (low + (high - low) * ratio_B).exp()
    across_B, down_B = (area_B * ratio_B).sqrt().clamp(max=1), (area_B / ratio_B).sqrt().clamp(max=1)
    rows_BSH = _resampling(top_B * (1 - down_B), down_B, height, side)
    columns_BSW = _resampling(left_B * (1 - across_B), across_B, width, side)
    mirrored = (mirror_B < 0.5)[:, None, None]
    return rows_BSH, torch.where(mirrored, columns_BSW.flip(1), columns_BSW)


def _resampling(start_B: Tensor, share_B: Tensor, size: int, side: int) -> Tensor:
    """Return [B, side, size]: the weights of pixels in those of a part, a triangle about each, as in Pillow."""
    place_S = (torch.arange(side, device=start_B.device) + 0.5) / side
    centre_BS = size * (start_B[:, None] + share_B[:, None] * place_S)
    pixel_P = torch.arange(size, device=start_B.device) + 0.5
    reach_B11 = (share_B * size / side).clamp(min=1)[:, None, None]
    weight_BSP = (1 - (centre_BS[..., None] - pixel_P).abs() / reach_B11).clamp(min=0)
    return weight_BSP / weight_BSP.sum(-1, keepdim=True)


def _recoloured(image_BCHW: Tensor, draw_5B: Tensor, config: ViewConfig) -> Tensor:
    draw_5B111 = draw_5B[..., None, None, None]
    changes_B111 = (draw_5B111[3] < config.jittered).float()
    bright, contrast, colour = (1 + changes_B111 * config.jitter * (2 * draw - 1) for draw in draw_5B111[:3])
    found = (image_BCHW * bright).clamp(0, 1)
    middle = _light(found).mean((2, 3), keepdim=True)
    found = (middle + contrast * (found - middle)).clamp(0, 1)
    light = _light(found)
    colour = torch.where(draw_5B111[4] < config.grey, 0.0, colour)
    return (light + colour * (found - light)).clamp(0, 1)


def _light(image_BCHW: Tensor) -> Tensor:
    weight_C11 = torch.tensor(GREY, device=image_BCHW.device, dtype=image_BCHW.dtype).view(3, 1, 1)
    return (image_BCHW * weight_C11).sum(1, keepdim=True)

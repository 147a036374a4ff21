"""Pictures that are mixed with others of their pass, and their labels with them: mixup, CutMix, random erasing.

As in timm's `Mixup` (mode ``elem``) and `RandomErasing` (mode ``pixel``), but what is random about a row is drawn where
it is read, and tensors keep their sizes: so a run that goes on, and any device, mixes alike. A row's other is the one
that stands as far from the end of the pass as it does from the beginning.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from timm.data.mixup import mixup_target
from torch import Tensor

from raylab.errors import RaylabError

AREAS, LEAST_RATIO, TRIES = (0.02, 1 / 3), 0.3, 10
"""Of what is erased, as shares of the picture; of its sides (timm's defaults, arXiv 1708.04896)."""
DRAWS = 10
"""Numbers that are drawn for a row: its share of the label, its share of the pixels, what is cut, what is erased."""


@dataclass(frozen=True)
class MixConfig:
    """How pictures are mixed; the defaults are those of MAE's fine-tuning (arXiv 2111.06377, table 9)."""

    mixup: float = 0.8
    """Alpha of the Beta distribution that a picture's share is drawn from (arXiv 1710.09412); 0: none."""
    cutmix: float = 1.0
    """Likewise, of pictures into which a part of the other one is pasted (arXiv 1905.04899); 0: none."""
    cut: float = 0.5
    """Share of pictures that are cut, where there are both."""
    erased: float = 0.25
    """Share of pictures of which a part is noise."""
    smoothing: float = 0.1
    """Of labels."""

    def __post_init__(self) -> None:
        """Refuse what is no share."""
        for name in ("cut", "erased", "smoothing"):
            if not 0 <= getattr(self, name) <= 1:
                raise RaylabError(f"task.mixing.{name}={getattr(self, name)}: give a number from 0 to 1.")
        if min(self.mixup, self.cutmix) < 0:
            raise RaylabError("task.mixing.mixup and .cutmix: give 0, which leaves it out, or more.")

    def draw(self, side: int, draw: np.random.Generator) -> np.ndarray:
        """Return float32 [`DRAWS`] for a picture of so many pixels a side."""
        label, pixel, box = self._share(side, draw)
        erased = _erased(side, draw) if draw.random() < self.erased else (0, 0, 0, 0)
        return np.array([label, pixel, *box, *erased], np.float32)

    def _share(self, side: int, draw: np.random.Generator) -> tuple[float, float, tuple[int, ...]]:
        cuts = draw.random() < (self.cut if self.mixup else 1.0) and self.cutmix > 0
        alpha = self.cutmix if cuts else self.mixup
        share = draw.beta(alpha, alpha) if alpha else 1.0
        if not cuts:
            return share, share, (0, 0, 0, 0)
        box = _cut(side, share, draw)
        return 1 - (box[1] - box[0]) * (box[3] - box[2]) / side**2, 1.0, box


def _cut(side: int, share: float, draw: np.random.Generator) -> tuple[int, int, int, int]:
    """Return top, bottom, left, right of a square of the other's share of the area, about a centre in the picture."""
    length = int(side * math.sqrt(1 - share))
    down, across = draw.integers(side, size=2).tolist()
    ends = [(max(0, at - length // 2), min(side, at + (length + 1) // 2)) for at in (down, across)]
    return *ends[0], *ends[1]


def _erased(side: int, draw: np.random.Generator) -> tuple[int, int, int, int]:
    for _ in range(TRIES):
        area = draw.uniform(*AREAS) * side**2
        ratio = math.exp(draw.uniform(math.log(LEAST_RATIO), -math.log(LEAST_RATIO)))
        height, width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if height < side and width < side:
            top, left = int(draw.integers(side - height + 1)), int(draw.integers(side - width + 1))
            return top, top + height, left, left + width
    return 0, 0, 0, 0


def mix(image_BCHW: Tensor, draw_BR: Tensor) -> Tensor:
    """Return mixed pictures.

    Args:
        image_BCHW: float, normalised: what is erased is normal noise.
        draw_BR: see `MixConfig.draw`.
    """
    own_B111 = draw_BR[:, 1, None, None, None]
    noise_BCHW = torch.randn_like(image_BCHW)
    image_BCHW = torch.where(_inside(draw_BR[:, 6:10], image_BCHW), noise_BCHW, image_BCHW)
    other_BCHW = image_BCHW.flip(0)
    found = own_B111 * image_BCHW + (1 - own_B111) * other_BCHW
    return torch.where(_inside(draw_BR[:, 2:6], image_BCHW), other_BCHW, found)


def targets(class_B: Tensor, draw_BR: Tensor, classes: int, smoothing: float) -> Tensor:
    """Return float [B, C]: the probabilities of classes after `mix`.

    Args:
        class_B: int64, each picture's own.
        draw_BR: as of `mix`.
        classes: how many.
        smoothing: of labels.
    """
    return mixup_target(class_B, classes, draw_BR[:, :1], smoothing)


def _inside(box_B4: Tensor, image_BCHW: Tensor) -> Tensor:
    """Return bool [B, 1, H, W]: whether a pixel lies in a box (top, bottom, left, right)."""
    height, width = (torch.arange(size, device=box_B4.device) for size in image_BCHW.shape[2:])
    top, bottom, left, right = box_B4[..., None].unbind(1)
    down_BH, across_BW = (height >= top) & (height < bottom), (width >= left) & (width < right)
    return (down_BH[:, :, None] & across_BW[:, None])[:, None]

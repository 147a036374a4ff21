"""Resizing and pooling of maps as matrix products, for torch-xla.

It has a program for few of them: bilinear resizing on TPUs alone, and there not one that is cut over devices; pooling
to a size that divides the map's; antialiased bicubic resizing nowhere. The others it gives back to the host in the
middle of each step. All are linear, and take one axis after the other. So each is a matrix an axis, and what the CPU's
own operator makes of a unit matrix is that matrix.

Axes: B pictures, C channels, H x W places of a map.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

RESIZES = ("upsample_bilinear2d", "_upsample_bicubic2d_aa")
POOL = "_adaptive_avg_pool2d"


@cache
def register() -> torch.library.Library:
    """Have torch-xla take the matrices from here on, once a process; the library lives as long as it is referred to."""
    library = torch.library.Library("aten", "IMPL")
    for name in RESIZES:
        library.impl(name, partial(resize, name), "AutogradXLA")
    library.impl(POOL, pool, "AutogradXLA")
    return library


def resize(
    name: str, map_BCHW: Tensor, output_size: Sequence[int], align_corners: bool, *scales: float | None
) -> Tensor:
    """Return a map of another size, as the operator `name` of torch does; at the end torch leaves out what is None."""
    height, width = map_BCHW.shape[-2:]
    scale_down, scale_across = (*scales, None, None)[:2]
    down_UH = _matrix(name, height, output_size[0], align_corners, scale_down)
    across_VW = _matrix(name, width, output_size[1], align_corners, scale_across)
    return by_axes(map_BCHW, down_UH, across_VW)


def pool(map_BCHW: Tensor, output_size: Sequence[int]) -> Tensor:
    """Return averages over windows, as torch's `adaptive_avg_pool2d`."""
    height, width = map_BCHW.shape[-2:]
    return by_axes(map_BCHW, _matrix(POOL, height, output_size[0]), _matrix(POOL, width, output_size[1]))


def by_axes(map_BCHW: Tensor, down_UH: Tensor, across_VW: Tensor) -> Tensor:
    """Return [B, C, U, V]; of the map's own type, whatever autocast says: it leaves these operators alone."""
    down_UH, across_VW = down_UH.to(map_BCHW), across_VW.to(map_BCHW)
    with torch.autocast(map_BCHW.device.type, enabled=False):
        return linear(linear(map_BCHW, across_VW).transpose(-1, -2), down_UH).transpose(-1, -2)


@lru_cache(maxsize=256)
def _matrix(name: str, places: int, size: int, *settings: Any) -> Tensor:
    """Return float32 [size, places], on the CPU.

    Args:
        name: of the operator.
        places: of the axis.
        size: what they become.
        settings: of the operator, for this axis.
    """
    align, scale = settings[:1], settings[1:]
    along = (*align, None, *scale) if settings else ()
    with torch.no_grad():
        found_11PS = getattr(torch.ops.aten, name).default(torch.eye(places)[None, None], [places, size], *along)
    return found_11PS[0, 0].T.contiguous()

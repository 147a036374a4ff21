"""Resizing and pooling by matrices is what torch does."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from raylab.train.accelerators.separable import RESIZES, pool, resize


@pytest.mark.parametrize("size", [(9, 6), (4, 3), (20, 2), (7, 5), (1, 1)])
def test_matrices_do_as_torch_does(size: tuple[int, int]) -> None:
    map_BCHW = torch.randn(2, 3, 7, 5, generator=torch.Generator().manual_seed(0))
    bilinear, bicubic = RESIZES
    for corners in (True, False):
        right = interpolate(map_BCHW, size, mode="bilinear", align_corners=corners)
        torch.testing.assert_close(resize(bilinear, map_BCHW, size, corners), right)
    right = interpolate(map_BCHW, size, mode="bicubic", antialias=True)
    torch.testing.assert_close(resize(bicubic, map_BCHW, size, False), right)
    torch.testing.assert_close(pool(map_BCHW, size), adaptive_avg_pool2d(map_BCHW, size))
    torch.testing.assert_close(
        resize(bilinear, map_BCHW, (11, 8), False, 1.7, 1.7), interpolate(map_BCHW, scale_factor=1.7, mode="bilinear")
    )
    assert pool(map_BCHW.bfloat16(), size).dtype == torch.bfloat16

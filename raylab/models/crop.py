"""Parts of a picture as a network's input."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels."""


def centre_box(width: int, height: int) -> Box:
    """Return the largest square in the middle."""
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def resized(picture: Image.Image, size: int, box: Box) -> np.ndarray:
    """Return a part of an RGB picture as uint8 [size, size, 3]."""
    from PIL import Image

    return np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC, box))

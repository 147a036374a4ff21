"""A decoded picture as the network's input: which part of it, in which light."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from raylab.errors import RaylabError, nearest
from raylab.models.crop import Box, centre_box, resized
from raylab.tasks.base import ImageInput

if TYPE_CHECKING:
    from PIL import Image

LEAST_AREA, RATIOS, TRIES = 0.08, (3 / 4, 4 / 3), 10
"""Of the inception crop (Szegedy et al., 2015), as torchvision's RandomResizedCrop has them."""
SHIFT, LIGHT = 1 / 16, 0.08
"""Of the crop ``shift``: how far it moves, in sides; deviation of gain and brightness."""
CROPS = ("inception", "shift", "centre")


def check(image: ImageInput) -> None:
    """Raise `RaylabError` where the crop is not known."""
    if image.crop not in CROPS:
        raise RaylabError(f"crop {image.crop!r} is not known: {', '.join(CROPS)}.{nearest(image.crop, CROPS)}")


def decoded_side(image: ImageInput) -> int:
    """Return the short side that a JPEG may be scaled down to while it is decoded."""
    return 2 * image.size if image.crop == "inception" else image.size


def to_input(picture: Image.Image, image: ImageInput, draw: np.random.Generator) -> np.ndarray:
    """Return uint8 [size, size, 3].

    Args:
        picture: RGB, any size.
        image: what is wanted.
        draw: all that is random about it.
    """
    if image.crop == "inception":
        return resized(picture, image.size, _inception_box(*picture.size, draw))
    box = centre_box(*picture.size)
    if image.crop == "centre":
        return resized(picture, image.size, box)
    return _relight(resized(picture, image.size, _moved(box, *picture.size, draw)), draw)


def _inception_box(width: int, height: int, draw: np.random.Generator) -> Box:
    for _ in range(TRIES):
        area = width * height * draw.uniform(LEAST_AREA, 1)
        ratio = math.exp(draw.uniform(math.log(RATIOS[0]), math.log(RATIOS[1])))
        w, h = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if w <= width and h <= height:
            left, top = draw.uniform(0, width - w), draw.uniform(0, height - h)
            return left, top, left + w, top + h
    return centre_box(width, height)


def _moved(box: Box, width: int, height: int, draw: np.random.Generator) -> Box:
    """Return the box, smaller by what it may move, somewhere within itself."""
    left, top, right, _ = box
    side = (right - left) * (1 - SHIFT)
    dx, dy = draw.uniform(0, (right - left) - side, 2)
    return left + dx, top + dy, min(left + dx + side, width), min(top + dy + side, height)


def _relight(pixel_HWC: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    gain, shift = draw.normal(0, LIGHT, 2)
    return (pixel_HWC * np.float32(1 + gain) + np.float32(255 * shift)).clip(0, 255).astype(np.uint8)

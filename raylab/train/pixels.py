"""A decoded picture as the network's input: which part of it, in which light."""

from __future__ import annotations

import math
import struct

import numpy as np

from raylab.errors import RaylabError, nearest
from raylab.models.crop import Box, centre_box, resized
from raylab.sources.headers import read_header
from raylab.sources.images import Limits, open_image
from raylab.tasks.base import ImageInput

LEAST_AREAS = {"inception": 0.08, "mae": 0.2}
"""Of a part of the picture, by crop: Szegedy et al., 2015; MAE (arXiv 2111.06377, appendix A.1)."""
RATIOS, TRIES = (3 / 4, 4 / 3), 10
"""Of either, as torchvision's RandomResizedCrop has them."""
SHIFT, LIGHT = 1 / 16, 0.08
"""Of the crop ``shift``: how far it moves, in sides; deviation of gain and brightness."""
CROPS = ("inception", "mae", "shift", "centre")
SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations of pictures that are stored with width and height exchanged."""


def check(image: ImageInput) -> None:
    """Raise `RaylabError` where the crop is not known."""
    if image.crop not in CROPS:
        raise RaylabError(f"crop {image.crop!r} is not known: {', '.join(CROPS)}.{nearest(image.crop, CROPS)}")


def open_input(data: bytes, limits: Limits, image: ImageInput, draw: np.random.Generator) -> np.ndarray:
    """Return a picture's bytes as uint8 [size, size, 3].

    The part is drawn before anything is decoded: a JPEG is then decoded at 1/2, 1/4 or 1/8 of its size where the part
    still has `size` pixels a side, and never coarser.

    Args:
        data: the file's bytes.
        limits: what is accepted.
        image: what is wanted.
        draw: all that is random about it.

    Raises:
        ImageRefused: see `sources.images.open_image`.
    """
    width, height = _upright_size(data, limits)
    box = _box(width, height, image, draw)
    picture = open_image(data, limits, _side(box, width, height, image.size))
    across, down = picture.width / width, picture.height / height
    found = resized(picture, image.size, (box[0] * across, box[1] * down, box[2] * across, box[3] * down))
    if image.crop == "mae" and draw.random() < 0.5:
        return found[:, ::-1]
    return _relight(found, draw) if image.crop == "shift" else found


def _upright_size(data: bytes, limits: Limits) -> tuple[int, int]:
    """Return width and height as the picture is shown; those of one that is refused do not matter."""
    try:
        header = read_header(data)
    except (ValueError, struct.error, IndexError):
        header = None
    if header is None or header.width <= 0 or header.height <= 0:
        return open_image(data, limits).size  # refuses it, and says why
    size = header.width, header.height
    return size[::-1] if header.orientation in SIDEWAYS else size


def _box(width: int, height: int, image: ImageInput, draw: np.random.Generator) -> Box:
    if image.crop in LEAST_AREAS:
        return _inception_box(width, height, LEAST_AREAS[image.crop], draw)
    box = centre_box(width, height)
    return box if image.crop == "centre" else _moved(box, width, height, draw)


def _side(box: Box, width: int, height: int, size: int) -> int:
    """Return the short side of the whole picture at which the part's is `size` pixels."""
    part = min(box[2] - box[0], box[3] - box[1])
    return math.ceil(min(width, height) * size / part)


def _inception_box(width: int, height: int, least: float, draw: np.random.Generator) -> Box:
    for _ in range(TRIES):
        area = width * height * draw.uniform(least, 1)
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

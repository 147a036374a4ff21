"""Pictures as the annotator's model is to see them: made small before they travel."""

from __future__ import annotations

import io
import math

from PIL import Image

from raylab.sources.base import Limits
from raylab.sources.images import open_image

JPEG_QUALITY = 92


def picture(data: bytes, limits: Limits, most_pixels: int) -> bytes:
    """Return an image from the web as a JPEG of at most so many pixels, its shape kept.

    Args:
        data: the file's bytes.
        limits: what is accepted.
        most_pixels: a model's token budget times the pixels that a token stands for.

    Raises:
        ImageRefused: see `open_image`.
    """
    image = open_image(data, limits, math.isqrt(most_pixels))
    buffer = io.BytesIO()
    _shrink(image, most_pixels).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def _shrink(image: Image.Image, most_pixels: int) -> Image.Image:
    scale = math.sqrt(most_pixels / (image.width * image.height))
    if scale >= 1:
        return image
    size = max(1, int(image.width * scale)), max(1, int(image.height * scale))
    return image.resize(size, Image.Resampling.BICUBIC)

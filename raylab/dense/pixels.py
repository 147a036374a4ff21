"""Pictures and masks as the network takes them: in training a random part of random size, whole otherwise."""

from __future__ import annotations

import numpy as np
from PIL import Image

from raylab.dense.plan import PixelsConfig
from raylab.sources.segmentation import IGNORE


def scaled(image: Image.Image, mask_HW: np.ndarray, scale: float) -> tuple[Image.Image, np.ndarray]:
    """Return both at another size: the picture bilinearly, the mask by its nearest pixels."""
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    if size == image.size:
        return image, mask_HW
    smaller = np.asarray(Image.fromarray(mask_HW).resize(size, Image.Resampling.NEAREST))
    return image.resize(size, Image.Resampling.BILINEAR), smaller


def training_view(
    image: Image.Image, mask_HW: np.ndarray, config: PixelsConfig, draw: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return a random part.

    Args:
        image: RGB.
        mask_HW: uint8, of the same size.
        config: what is drawn.
        draw: all that is random.

    Returns:
        uint8 [crop, crop, 3] and uint8 [crop, crop].
    """
    scale = side_scale(image, config) * draw.uniform(*config.scales)
    image, mask_HW = scaled(image, mask_HW, scale)
    crop = config.crop
    left, top = (int(draw.integers(max(0, length - crop) + 1)) for length in image.size)
    pixel_HWC = np.zeros((crop, crop, 3), np.uint8)
    class_HW = np.full((crop, crop), IGNORE, np.uint8)
    part_HW = mask_HW[top : top + crop, left : left + crop]
    height, width = part_HW.shape
    class_HW[:height, :width] = part_HW
    pixel_HWC[:height, :width] = np.asarray(image.crop((left, top, left + width, top + height)))
    if config.flip and draw.random() < 0.5:
        return pixel_HWC[:, ::-1].copy(), class_HW[:, ::-1].copy()
    return pixel_HWC, class_HW


def whole_view(image: Image.Image, config: PixelsConfig) -> np.ndarray:
    """Return a picture as in evaluation, uint8 [height, width, 3]; its mask stays as it is."""
    scale = side_scale(image, config)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return np.asarray(image if size == image.size else image.resize(size, Image.Resampling.BILINEAR))


def side_scale(image: Image.Image, config: PixelsConfig) -> float:
    """Return by how much a picture is enlarged before anything is drawn."""
    return config.side / min(image.size) if config.side else 1.0

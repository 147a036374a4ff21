"""Draws an entity's flag, sign or symbol from its design.

A design is an aspect (``3:2``, width to height), perhaps an outline (``shape octagon``), and operations of `shapes`
parted by ``;``, each a name, colours and numbers:

    3:2; h #ae1c28 w #21468b                  three horizontal stripes
    3:2; bg #da251d; star #ffff00 .5 .5 .3    a star in the middle, its radius 0.3 of the height

A colour is ``#rrggbb``, ``w`` (white), ``k`` (black) or ``r`` (red); a stripe's colour may carry a weight: ``w*2``.
Designs are as exact as a texture of 96 pixels can show; coats of arms are left out or simplified.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from raylab.sources.miniworld.entities import BY_ID
from raylab.sources.miniworld.shapes import CANVAS_HEIGHT, OPERATIONS, OUTLINES, Canvas

TEXTURE_HEIGHT = 96
"""Pixels."""


def _aspect(word: str) -> float:
    width, height = word.split(":")
    return float(width) / float(height)


def draw_design(design: str) -> np.ndarray:
    """Draw a design.

    Returns:
        (TEXTURE_HEIGHT, W, 4) uint8: straight RGBA, transparent outside the sign's shape.

    Raises:
        ValueError: an operation that does not exist.
    """
    operations = [words.split() for words in design.split(";")]
    aspect = _aspect(operations.pop(0)[0])
    shape = operations.pop(0)[1] if operations[0][0] == "shape" else None
    canvas = Canvas.blank(aspect)
    for name, *words in operations:
        if name not in OPERATIONS:
            raise ValueError(f"unknown operation {name!r} in {design!r}")
        OPERATIONS[name](canvas, words)
    mask = Image.new("L", canvas.image.size, 255 if shape is None else 0)
    if shape is not None:
        ImageDraw.Draw(mask).polygon([canvas.px(*point) for point in OUTLINES[shape]], 255)
    canvas.image.putalpha(mask)
    return np.asarray(canvas.image.reduce(CANVAS_HEIGHT // TEXTURE_HEIGHT))


@cache
def texture(entity_id: str) -> np.ndarray:
    """Return the drawn texture of a pictured entity, (96, W, 4) uint8, read-only and kept for the next call."""
    pixels = draw_design(BY_ID[entity_id].design).copy()
    pixels.setflags(write=False)
    return pixels

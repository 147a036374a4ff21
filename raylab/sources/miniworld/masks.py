"""Masks of the mini-world's scenes: what each pixel shows, taken from what painting it covered with what.

A pixel belongs to what most of it shows: an entity, what carries it, or neither. What stands before a scene (a bar, a
leaf) is of no class, as are clutter and landscapes: background.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw

from raylab.sources.miniworld.entities import BY_ID
from raylab.sources.miniworld.scene import FINE, SIZE, Painting, Placement, fine
from raylab.sources.miniworld.stage import body

CARRIERS = ("pole", "post", "mug", "shirt", "sticker", "poster", "screen")
"""Those that are drawn; ``paint`` is straight on the background."""
PARTS = ("background", "flag", "sign", *CARRIERS)
"""The finest classes: a flag, any other entity, and each kind of carrier."""
CLASSES = ("background", "flag", "object")
"""The default: an object is a sign or symbol, or what carries an entity."""
CLASS_SETS: Mapping[str, tuple[str, ...]] = {"default": CLASSES, "parts": PARTS}
_OBJECTS = np.array([0, 1] + [2] * (len(PARTS) - 2), np.uint8)
_BLANKS = ((0, 0, 0), (255, 255, 255))


def mask(painting: Painting, classes: str = "default") -> np.ndarray:
    """Return what each pixel of a scene shows.

    Args:
        painting: the scene.
        classes: one of `CLASS_SETS`.

    Returns:
        uint8 [SIZE, SIZE]: places in that set.
    """
    shares_PHW = _shares(painting)
    part_HW = shares_PHW.argmax(0).astype(np.uint8)
    return part_HW if classes == "parts" else _OBJECTS[part_HW]


def _shares(painting: Painting) -> np.ndarray:
    """Return float32 [parts, SIZE, SIZE]: how much of each pixel shows each part; they sum to 1."""
    found = np.zeros((len(PARTS), SIZE, SIZE), np.float32)
    seen_HW = np.ones((SIZE, SIZE), np.float32)
    if painting.cover_HW is not None:
        found[0] += painting.cover_HW
        seen_HW -= painting.cover_HW
    for placement, stamp in reversed(list(zip(painting.placements, painting.stamps))):
        window = stamp.rows, stamp.columns
        part = PARTS.index("flag" if "flag" in BY_ID[placement.entity_id].types else "sign")
        found[part][window] += seen_HW[window] * stamp.alpha_HW
        seen_HW[window] *= 1 - stamp.alpha_HW
    part_HW = _bodies(painting.placements)  # of the finer canvas
    for part in np.unique(part_HW):
        found[part] += seen_HW * (part_HW == part).reshape(SIZE, FINE, SIZE, FINE).mean((1, 3), dtype=np.float32)
    return found


def _bodies(placements: tuple[Placement, ...]) -> np.ndarray:
    """Return uint8 [FINE * SIZE, FINE * SIZE]: which part's body is in front, before entities are put on."""
    part_HW = np.zeros((FINE * SIZE, FINE * SIZE), np.uint8)
    for placement in placements:
        if placement.carrier in CARRIERS:
            part_HW[_covered(placement)] = PARTS.index(placement.carrier)
    return part_HW


def _covered(placement: Placement) -> np.ndarray:
    """Return bool [FINE * SIZE, FINE * SIZE]: what a body hides, whatever lies behind: drawing it changes it."""
    changed = np.zeros((FINE * SIZE, FINE * SIZE), bool)
    for blank in _BLANKS:
        canvas = Image.new("RGB", (FINE * SIZE, FINE * SIZE), blank)
        body(ImageDraw.Draw(canvas), placement.carrier, fine(placement), (120, 120, 120))
        changed |= (np.asarray(canvas) != blank).any(-1)
    return changed

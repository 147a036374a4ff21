"""Scenes: an entity or two on something (a pole, a mug, a shirt, ...), lit, bent, half covered and noisy.

A scene is made in two passes over one random generator: `layout` says what stands where, which is all that questions
need; `paint` paints it and says what it covered with what, which is what masks are made of. The same generator state
gives the same pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from raylab.sources.miniworld.draw import texture
from raylab.sources.miniworld.entities import BY_ID
from raylab.sources.miniworld.stage import Colour, background, body, clutter, landscape, occluder

SIZE = 128
"""Pixels of a scene's side."""

FINE = 2
"""What Pillow draws without smoothing is drawn this much finer."""

_FLAG_CARRIERS = {"pole": 6, "mug": 2, "shirt": 2, "sticker": 2, "poster": 2, "screen": 1, "paint": 2}
_SIGN_CARRIERS = {"post": 6, "mug": 1, "shirt": 1, "sticker": 3, "poster": 2, "screen": 1, "paint": 2}


@dataclass(frozen=True)
class Placement:
    """Where an entity stands in a scene."""

    entity_id: str
    carrier: str
    """What it is on: ``pole``, ``post``, ``mug``, ``shirt``, ``sticker``, ``poster``, ``screen`` or ``paint``."""
    corners: tuple[tuple[float, float], ...]
    """Top left, top right, bottom right, bottom left of the entity, (x, y) in pixels; may lie outside the scene."""

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom in whole pixels, cut to the scene, end exclusive."""
        xs, ys = zip(*self.corners)
        left, top = (max(0, math.floor(min(values))) for values in (xs, ys))
        right, bottom = (min(SIZE, math.ceil(max(values))) for values in (xs, ys))
        return left, top, right, bottom


@dataclass(frozen=True, eq=False)
class Stamp:
    """What an entity covers."""

    rows: slice
    columns: slice
    """Of the scene's pixels: outside of these nothing is covered."""
    alpha_HW: np.ndarray
    """float32, 0..1: how much of each pixel within."""


@dataclass(frozen=True, eq=False)
class Painting:
    """A painted scene."""

    image: Image.Image
    """RGB, SIZE x SIZE."""
    placements: tuple[Placement, ...]
    stamps: tuple[Stamp, ...]
    """Of each placement; later ones lie over earlier ones."""
    cover_HW: np.ndarray | None
    """float32, 0..1: how much of each pixel is behind what stands before the scene; None: nothing does."""


def _choose(weights: dict[str, int], rng: np.random.Generator) -> str:
    ticket = rng.integers(sum(weights.values()))
    for name, weight in weights.items():
        ticket -= weight
        if ticket < 0:
            return name
    raise AssertionError("unreachable: the ticket lies below the sum")


def _place(entity_id: str, slot: tuple[float, float], rng: np.random.Generator) -> Placement:
    """Put an entity into the columns of `slot`, both in pixels."""
    carrier = _choose(_FLAG_CARRIERS if "flag" in BY_ID[entity_id].types else _SIGN_CARRIERS, rng)
    pixels = texture(entity_id)
    aspect = pixels.shape[1] / pixels.shape[0]
    room = slot[1] - slot[0]
    width = min(room * rng.uniform(0.62, 0.95), SIZE * 0.66 * aspect)
    height = width / aspect
    x = slot[0] + width / 2 + rng.uniform(0, room - width)
    y = rng.uniform(0.5 * height + 4, max(SIZE - 0.5 * height - 14, 0.5 * height + 5))
    turn = rng.normal(0, 0.3 if carrier in ("sticker", "poster", "paint") else 0.07)
    unit = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)]) * (width, height)
    unit += rng.normal(0, 0.05 * min(width, height), (4, 2))
    spin = np.array([(math.cos(turn), math.sin(turn)), (-math.sin(turn), math.cos(turn))])
    corners = unit @ spin + (x, y)
    return Placement(entity_id, carrier, tuple((float(cx), float(cy)) for cx, cy in corners))


def layout(entity_ids: Sequence[str], rng: np.random.Generator) -> tuple[Placement, ...]:
    """Say where the entities of a scene stand, without painting it: the first thing that `render` does.

    Args:
        entity_ids: none, one or two pictured entities, left to right.
        rng: advanced.

    Raises:
        ValueError: more than two entities.
    """
    if len(entity_ids) > 2:
        raise ValueError(f"a scene holds at most two entities, not {len(entity_ids)}")
    if len(entity_ids) < 2:
        return tuple(_place(entity_id, (0, SIZE), rng) for entity_id in entity_ids)
    middle = SIZE * rng.uniform(0.46, 0.54)
    slots = ((0, middle), (middle, SIZE))
    return tuple(_place(entity_id, slot, rng) for entity_id, slot in zip(entity_ids, slots))


@cache
def _pyramid(entity_id: str) -> tuple[np.ndarray, ...]:
    """The texture at full, half and a third of its size: premultiplied float32, a transparent pixel about it."""
    image = Image.fromarray(texture(entity_id))
    levels = []
    for factor in (1, 2, 3):
        pixels = np.asarray(image.reduce(factor), np.float32) / 255
        pixels = pixels * np.concatenate([pixels[..., 3:].repeat(3, -1), np.ones_like(pixels[..., :1])], -1)
        levels.append(np.pad(pixels, ((1, 1), (1, 1), (0, 0))))
    return tuple(levels)


def _homography(corners: Sequence[tuple[float, float]]) -> np.ndarray:
    """The (3, 3) map from scene pixels to the unit square whose corners lie at `corners`."""
    rows, values = [], []
    for (x, y), (u, v) in zip(corners, ((0, 0), (1, 0), (1, 1), (0, 1))):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return np.append(np.linalg.solve(np.array(rows), np.array(values)), 1.0).reshape(3, 3)


def _bend(
    carrier: str, u: np.ndarray, v: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bend flat coordinates as the carrier does; returns u, v and the light, all (H, W)."""
    if carrier == "mug":
        turn = np.clip(2 * u - 1, -0.999, 0.999)
        return np.arcsin(turn * 0.9) / 2.24 + 0.5, v + 0.05 * turn**2, 1.05 - 0.5 * (turn + rng.uniform(-0.4, 0.4)) ** 2
    if carrier in ("pole", "shirt"):
        waves, amplitude = (rng.uniform(1, 2.2), rng.uniform(0.02, 0.08)) if carrier == "pole" else (2.5, 0.015)
        phase = 2 * math.pi * (waves * u + rng.uniform(-0.4, 0.4) * v + rng.uniform())
        free = np.minimum(2 * u, 1) if carrier == "pole" else 1.0  # a flag hangs still at its hoist
        return u, v + amplitude * free * np.sin(phase), 0.92 + 3.2 * amplitude * free * np.cos(phase)
    slope = rng.normal(0, 0.12)
    return u, v, 1 + slope * (u - v)


def _sample(pixels: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Bilinear lookup, (H, W, 4); what lies outside the texture is transparent."""
    rows, columns = pixels.shape[:2]
    x = np.clip(u * (columns - 2) + 0.5, 0, columns - 1.01)
    y = np.clip(v * (rows - 2) + 0.5, 0, rows - 1.01)
    x0, y0 = np.floor(x), np.floor(y)
    fx, fy = (x - x0)[..., None], (y - y0)[..., None]
    flat = pixels.reshape(-1, 4)
    at = (y0 * columns + x0).astype(np.intp)
    left, right = (flat.take(at + k, axis=0) for k in (0, 1))
    left += (flat.take(at + columns, axis=0) - left) * fy
    right += (flat.take(at + columns + 1, axis=0) - right) * fy
    left += (right - left) * fx
    return left


def _stamp(scene: np.ndarray, placement: Placement, rng: np.random.Generator) -> Stamp:
    """Blend the entity into `scene`, (SIZE, SIZE, 3) float32 in 0..1, in place; return what it covers."""
    left, top, right, bottom = placement.box
    margin = 6  # a waving flag leaves its outline
    top, bottom = max(0, top - margin), min(SIZE, bottom + margin)
    x = np.arange(left, right, dtype=np.float32)[None, :] + 0.5
    y = np.arange(top, bottom, dtype=np.float32)[:, None] + 0.5
    # plain floats keep the arrays in single precision
    (ux, uy, u0), (vx, vy, v0), (dx, dy, d0) = _homography(placement.corners).tolist()
    depth = dx * x + (dy * y + d0)
    u = (ux * x + (uy * y + u0)) / depth
    v = (vx * x + (vy * y + v0)) / depth
    u, v, light = _bend(placement.carrier, u, v, rng)
    height = math.dist(placement.corners[0], placement.corners[3])
    levels = _pyramid(placement.entity_id)
    found = _sample(levels[0 if height > 72 else 1 if height > 40 else 2], u, v)
    region = scene[top:bottom, left:right]
    covered = Stamp(slice(top, bottom), slice(left, right), found[..., 3].copy())
    region *= 1 - found[..., 3:]
    found *= np.clip(light, 0.35, 1.25)[..., None]
    region += found[..., :3]
    return covered


def _body_colours(rng: np.random.Generator) -> Colour:
    shade = int(rng.integers(0, 3))
    low, high = ((200, 256), (20, 90), (90, 200))[shade]
    red, green, blue = rng.integers(low, high, 3)
    return int(red), int(green), int(blue)


def _light(scene: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Uneven, tinted light and sensor noise."""
    corners = Image.fromarray(rng.uniform(0.62, 1.18, (2, 2)).astype(np.float32))
    field = np.asarray(corners.resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    tint = rng.normal(1, 0.04, 3).astype(np.float32)
    lit = scene * (field[..., None] * tint)
    grain = rng.standard_normal((SIZE, SIZE), dtype=np.float32) * np.float32(rng.uniform(0.005, 0.045))
    lit += grain[..., None]
    return lit


def paint(entity_ids: Sequence[str], rng: np.random.Generator) -> Painting:
    """Paint a scene.

    Args:
        entity_ids: none (a landscape or clutter), one or two pictured entities, left to right.
        rng: decides everything else; advanced.

    Raises:
        ValueError: more than two entities.
        KeyError: an entity that does not exist.
    """
    placements = layout(entity_ids, rng)
    canvas = background(SIZE * FINE, rng) if placements else landscape(SIZE * FINE, rng)
    pen = ImageDraw.Draw(canvas)
    clutter(pen, SIZE * FINE, rng)
    for placement in placements:
        body(pen, placement.carrier, fine(placement), _body_colours(rng))
    scene = np.asarray(canvas.reduce(FINE), np.float32) / 255
    stamps = tuple(_stamp(scene, placement, rng) for placement in placements)
    cover_HW1 = None
    if rng.random() < 0.3:
        cover_HW1, colour = occluder(SIZE, rng)
        scene = scene * (1 - cover_HW1) + cover_HW1 * np.array(colour, np.float32) / 255
    lit = _light(scene, rng) * np.float32(255)
    image = Image.fromarray(np.clip(lit, 0, 255, out=lit).astype(np.uint8))
    if rng.random() < 0.3:
        image = image.filter(ImageFilter.BoxBlur(float(rng.uniform(0.3, 1.1))))
    return Painting(image, placements, stamps, None if cover_HW1 is None else cover_HW1[..., 0])


def fine(placement: Placement) -> list[tuple[float, float]]:
    """Return the corners of an entity in pixels of the finer canvas."""
    return [(x * FINE, y * FINE) for x, y in placement.corners]


def render(entity_ids: Sequence[str], rng: np.random.Generator) -> tuple[Image.Image, tuple[Placement, ...]]:
    """Return a scene's picture, and where each entity stands; see `paint`."""
    painting = paint(entity_ids, rng)
    return painting.image, painting.placements

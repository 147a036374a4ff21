"""The stage of a scene: backgrounds, clutter, the things that carry an entity, and what stands before it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]
Quad = Sequence[Point]

_WHITE: Colour = (245, 245, 242)
_METAL: Colour = (150, 152, 156)


def _between(a: Point, b: Point, t: float) -> Point:
    return a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t


def _muted(rng: np.random.Generator) -> Colour:
    grey, spread = rng.uniform(50, 215), rng.normal(0, 22, 3)
    red, green, blue = np.clip(grey + spread, 0, 255).astype(int)
    return int(red), int(green), int(blue)


def _soft(colours: np.ndarray, size: int) -> Image.Image:
    """A few (H, W, 3) colours spread smoothly over a square."""
    image = Image.fromarray(np.clip(colours, 0, 255).astype(np.uint8))
    return image.resize((size, size), Image.Resampling.BILINEAR)


def _sky(size: int, rng: np.random.Generator) -> Image.Image:
    top = np.array([70, 130, 205]) + rng.normal(0, 25, 3)
    fade = np.linspace(0, rng.uniform(0.3, 1), 6)[:, None, None]
    clouds = np.clip(rng.normal(-0.1, 0.5, (6, 6, 1)), 0, 0.9)
    sky = top * (1 - fade) + np.array([225, 230, 235]) * fade
    return _soft(sky * (1 - clouds) + 240 * clouds, size)


def _wall(size: int, rng: np.random.Generator) -> Image.Image:
    return _soft(np.array(_muted(rng)) + rng.normal(0, 12, (5, 5, 1)) + rng.normal(0, 4, (5, 5, 3)), size)


def _boards(size: int, rng: np.random.Generator) -> Image.Image:
    """A table or fence of planks."""
    image = Image.new("RGB", (size, size))
    pen = ImageDraw.Draw(image)
    base, planks = np.array([150, 110, 75]) + rng.normal(0, 30, 3), int(rng.integers(4, 9))
    upright = rng.random() < 0.5
    for i in range(planks):
        low, high = size * i / planks, size * (i + 1) / planks - 2
        red, green, blue = np.clip(base + rng.normal(0, 14), 0, 255).astype(int)
        box = (low, 0, high, size) if upright else (0, low, size, high)
        pen.rectangle(box, fill=(int(red), int(green), int(blue)))
    return image


def _bokeh(size: int, rng: np.random.Generator) -> Image.Image:
    """A crowd or a street out of focus."""
    return _soft(rng.uniform(20, 235, (9, 9, 1)) * 0.7 + rng.uniform(0, 90, (9, 9, 3)), size)


_BACKGROUNDS: tuple[Callable[[int, np.random.Generator], Image.Image], ...] = (
    _sky,
    _sky,
    _wall,
    _wall,
    _boards,
    _bokeh,
)


def background(size: int, rng: np.random.Generator) -> Image.Image:
    """What stands behind everything: a sky, a wall, planks or a blurred street. RGB, `size` pixels square."""
    return _BACKGROUNDS[rng.integers(len(_BACKGROUNDS))](size, rng)


def clutter(pen: ImageDraw.ImageDraw, size: int, rng: np.random.Generator) -> None:
    """Draw up to four grey shapes that mean nothing."""
    for _ in range(int(rng.integers(0, 5))):
        x, y = rng.uniform(-0.1, 1, 2) * size
        width, height = rng.uniform(0.05, 0.35, 2) * size
        colour, form = _muted(rng), rng.integers(3)
        if form == 0:
            pen.rectangle((x, y, x + width, y + height), fill=colour)
        elif form == 1:
            pen.ellipse((x, y, x + width, y + height), fill=colour)
        else:
            pen.line((x, y, x + 2 * width, y + 2 * height), fill=colour, width=int(rng.integers(2, 9)))


def _hills(pen: ImageDraw.ImageDraw, size: int, rng: np.random.Generator) -> None:
    for depth in range(3):
        crest = size * (0.5 + 0.15 * depth + 0.08 * rng.standard_normal(7))
        outline = [(size * i / 6, float(y)) for i, y in enumerate(crest)]
        shade = int(120 - 30 * depth)
        pen.polygon([*outline, (size, size), (0, size)], fill=(shade - 30, shade + 20, shade - 40))


def _houses(pen: ImageDraw.ImageDraw, size: int, rng: np.random.Generator) -> None:
    x = 0.0
    while x < size:
        width, top = size * rng.uniform(0.08, 0.2), size * rng.uniform(0.3, 0.75)
        pen.rectangle((x, top, x + width, size), fill=_muted(rng))
        for row in range(int((size - top) / (size * 0.09))):
            y = top + size * (0.03 + 0.09 * row)
            pen.rectangle((x + width * 0.25, y, x + width * 0.75, y + size * 0.035), fill=(230, 220, 170))
        x += width + 2


def _figure(pen: ImageDraw.ImageDraw, size: int, rng: np.random.Generator) -> None:
    """A person, head and shoulders."""
    x, y, head = size * rng.uniform(0.35, 0.65), size * rng.uniform(0.3, 0.45), size * rng.uniform(0.1, 0.17)
    skin = int(rng.integers(70, 230))
    pen.ellipse((x - 2.2 * head, y + 1.1 * head, x + 2.2 * head, size * 1.6), fill=_muted(rng))
    pen.ellipse((x - head, y - 1.3 * head, x + head, y + 1.2 * head), fill=(skin, int(skin * 0.8), int(skin * 0.65)))
    pen.chord((x - head, y - 1.35 * head, x + head, y + 0.7 * head), 180, 360, fill=_muted(rng))


_SIGHTS: tuple[Callable[[ImageDraw.ImageDraw, int, np.random.Generator], None], ...] = (_hills, _houses, _figure)


def landscape(size: int, rng: np.random.Generator) -> Image.Image:
    """A picture without any entity of the catalogue: hills, houses, a person."""
    image = background(size, rng)
    _SIGHTS[rng.integers(len(_SIGHTS))](ImageDraw.Draw(image), size, rng)
    return image


def _outset(quad: Quad, share: float) -> list[Point]:
    """The quad grown about its middle."""
    middle = (sum(x for x, _ in quad) / 4, sum(y for _, y in quad) / 4)
    return [_between(middle, corner, 1 + share) for corner in quad]


def _extents(quad: Quad) -> tuple[float, float, float, float]:
    xs, ys = zip(*quad)
    return min(xs), min(ys), max(xs), max(ys)


def _pole(pen: ImageDraw.ImageDraw, quad: Quad, colour: Colour) -> None:
    top, bottom = quad[0], quad[3]
    width = max(3, round(math.dist(top, bottom) * 0.06))
    ends = _between(bottom, top, 1.12), _between(top, bottom, 4)
    pen.line(ends, fill=_METAL if sum(colour) > 300 else colour, width=width)


def _post(pen: ImageDraw.ImageDraw, quad: Quad, _: Colour) -> None:
    start, below = _between(quad[0], quad[1], 0.5), _between(quad[3], quad[2], 0.5)
    width = max(4, round(math.dist(quad[0], quad[1]) * 0.07))
    pen.line((_between(start, below, 0.5), _between(start, below, 4)), fill=_METAL, width=width)


def _mug(pen: ImageDraw.ImageDraw, quad: Quad, colour: Colour) -> None:
    left, top, right, bottom = _extents(_outset(quad, 0.12))
    height, rim = bottom - top, (right - left) * 0.08
    handle = (right - height * 0.25, top + height * 0.15, right + height * 0.3, bottom - height * 0.15)
    pen.ellipse(handle, outline=colour, width=max(4, round(height * 0.09)))
    pen.rectangle((left, top - height * 0.1, right, bottom + height * 0.1), fill=colour)
    pen.ellipse((left, bottom + height * 0.1 - rim, right, bottom + height * 0.1 + rim), fill=colour)
    dark = tuple(int(value * 0.6) for value in colour)
    pen.ellipse((left, top - height * 0.1 - rim, right, top - height * 0.1 + rim), fill=dark)


def _shirt(pen: ImageDraw.ImageDraw, quad: Quad, colour: Colour) -> None:
    left, top, right, bottom = _extents(quad)
    width, height = right - left, bottom - top
    outline = [
        (-0.3, -0.55),
        (0.3, -0.6),
        (0.4, -0.45),
        (0.6, -0.45),
        (0.7, -0.6),
        (1.3, -0.55),
        (1.65, 0.35),
        (1.35, 0.5),
    ]
    outline += [(1.2, 0.15), (1.2, 2.2), (-0.2, 2.2), (-0.2, 0.15), (-0.35, 0.5), (-0.65, 0.35)]
    pen.polygon([(left + x * width, top + y * height) for x, y in outline], fill=colour)


def _sticker(pen: ImageDraw.ImageDraw, quad: Quad, _: Colour) -> None:
    pen.polygon(_outset(quad, 0.12), fill=_WHITE)


def _poster(pen: ImageDraw.ImageDraw, quad: Quad, colour: Colour) -> None:
    pen.polygon(_outset(quad, 0.28), fill=tuple(int(value * 0.5) for value in colour))
    pen.polygon(_outset(quad, 0.18), fill=_WHITE)


def _screen(pen: ImageDraw.ImageDraw, quad: Quad, colour: Colour) -> None:
    pen.polygon(_outset(quad, 0.3), fill=(18, 18, 20))
    pen.polygon(_outset(quad, 0.2), fill=colour)


def _paint(_: ImageDraw.ImageDraw, __: Quad, ___: Colour) -> None:
    """Straight onto the background: nothing stands between."""


_BODIES: dict[str, Callable[[ImageDraw.ImageDraw, Quad, Colour], None]] = {
    "pole": _pole,
    "post": _post,
    "mug": _mug,
    "shirt": _shirt,
    "sticker": _sticker,
    "poster": _poster,
    "screen": _screen,
    "paint": _paint,
}


def body(pen: ImageDraw.ImageDraw, carrier: str, quad: Quad, colour: Colour) -> None:
    """Draw what carries the entity whose corners are `quad` (top left, then clockwise, in pixels of the pen)."""
    _BODIES[carrier](pen, quad, colour)


def occluder(size: int, rng: np.random.Generator) -> tuple[np.ndarray, Colour]:
    """Return what covers a part of a scene: a bar, a leaf or a see-through watermark.

    Returns:
        float32 [size, size, 1], 0..1: how much of each pixel it covers; its colour.
    """
    mask = Image.new("L", (size, size))
    pen = ImageDraw.Draw(mask)
    x, y = rng.uniform(0, size, 2)
    form = rng.integers(3)
    if form == 0:
        reach = size * rng.normal(0, 1, 2)
        pen.line((x - reach[0], y - reach[1], x + reach[0], y + reach[1]), fill=255, width=int(rng.integers(4, 12)))
    elif form == 1:
        radius = size * rng.uniform(0.06, 0.16, 2)
        pen.ellipse((x - radius[0], y - radius[1], x + radius[0], y + radius[1]), fill=255)
    else:
        for line in range(0, 2 * size, int(rng.integers(24, 40))):
            pen.line((line, 0, line - size, size), fill=80, width=3)
    return np.asarray(mask, np.float32)[..., None] / 255, _muted(rng)

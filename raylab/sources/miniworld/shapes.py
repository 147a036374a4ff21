"""What designs are made of: a canvas addressed in fractions, and the operations that draw on it.

Each operation takes the canvas and the words that follow its name in a design: a colour, then numbers. x and y are
fractions of the width and the height, lengths are fractions of the height.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

CANVAS_HEIGHT = 288
"""Pixels: three times a texture's height, which smooths the edges."""

_COLOURS = {"w": "#ffffff", "k": "#000000", "r": "#e8112d"}
Point = tuple[float, float]


@dataclass(frozen=True)
class Canvas:
    """A drawing surface addressed in fractions."""

    image: Image.Image
    draw: ImageDraw.ImageDraw

    @classmethod
    def blank(cls, aspect: float) -> Canvas:
        """A white canvas of `aspect`, width to height."""
        image = Image.new("RGB", (round(CANVAS_HEIGHT * aspect), CANVAS_HEIGHT), "white")
        return cls(image, ImageDraw.Draw(image))

    @property
    def aspect(self) -> float:
        """Width to height."""
        return self.image.width / self.image.height

    def px(self, x: float, y: float) -> Point:
        """Fractions to pixels."""
        return x * self.image.width, y * self.image.height

    def units(self, length: float) -> float:
        """A fraction of the height in pixels."""
        return length * self.image.height

    def polygon(self, points: list[Point], colour: str) -> None:
        """Fill a polygon."""
        self.draw.polygon([self.px(*point) for point in points], _colour(colour))

    def around(self, x: float, y: float, radius: float, degrees: float) -> Point:
        """The point at `radius` (fraction of the height) from (x, y), 0 degrees upwards, clockwise."""
        angle = math.radians(degrees)
        return x + radius * math.sin(angle) / self.aspect, y - radius * math.cos(angle)

    def box(self, x: float, y: float, radius: float) -> tuple[float, float, float, float]:
        """The pixels of the square about a disc."""
        centre_x, centre_y = self.px(x, y)
        return (
            centre_x - self.units(radius),
            centre_y - self.units(radius),
            centre_x + self.units(radius),
            centre_y + self.units(radius),
        )


def _colour(name: str) -> str:
    return _COLOURS.get(name, name)


def _points(words: list[str]) -> list[Point]:
    pairs = (word.split(",") for word in words)
    return [(float(x), float(y)) for x, y in pairs]


def _stripes(canvas: Canvas, words: list[str], vertical: bool) -> None:
    parts = [word.split("*") for word in words]
    weights = [float(part[1]) if len(part) > 1 else 1.0 for part in parts]
    start, total = 0.0, sum(weights)
    for (colour, *_), weight in zip(parts, weights):
        end = start + weight / total
        corners = (start, 0.0, end, 1.0) if vertical else (0.0, start, 1.0, end)
        _rect(canvas, [colour, *map(str, corners)])
        start = end


def _rect(canvas: Canvas, words: list[str]) -> None:
    left, top, right, bottom = map(float, words[1:5])
    canvas.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], words[0])


def _bg(canvas: Canvas, words: list[str]) -> None:
    _rect(canvas, [words[0], "0", "0", "1", "1"])


def _poly(canvas: Canvas, words: list[str]) -> None:
    canvas.polygon(_points(words[1:]), words[0])


def _tri(canvas: Canvas, words: list[str]) -> None:
    canvas.polygon([(0, 0), (float(words[1]), 0.5), (0, 1)], words[0])


def _disc(canvas: Canvas, words: list[str]) -> None:
    canvas.draw.ellipse(canvas.box(*map(float, words[1:4])), _colour(words[0]))


def _ring(canvas: Canvas, words: list[str]) -> None:
    width = round(canvas.units(float(words[4])))
    canvas.draw.ellipse(canvas.box(*map(float, words[1:4])), outline=_colour(words[0]), width=width)


def _halfring(canvas: Canvas, words: list[str]) -> None:
    """The hoist half of a ring."""
    width = round(canvas.units(float(words[4])))
    canvas.draw.arc(canvas.box(*map(float, words[1:4])), 90, 270, fill=_colour(words[0]), width=width)


def _halfdisc(canvas: Canvas, words: list[str]) -> None:
    """A disc of two colours, the first one above, or to the left when a turn of 90 degrees follows."""
    turn = float(words[5]) if len(words) > 5 else 0.0
    box = canvas.box(*map(float, words[2:5]))
    canvas.draw.pieslice(box, 180 - turn, 360 - turn, fill=_colour(words[0]))
    canvas.draw.pieslice(box, -turn, 180 - turn, fill=_colour(words[1]))


def _star(canvas: Canvas, words: list[str]) -> None:
    """``star colour x y radius [points] [inner radius as a fraction] [turn in degrees]``."""
    x, y, radius = map(float, words[1:4])
    count = int(words[4]) if len(words) > 4 else 5
    inner = float(words[5]) if len(words) > 5 else 0.382
    turn = float(words[6]) if len(words) > 6 else 0.0
    step = 180 / count
    outline = [canvas.around(x, y, radius * (inner if i % 2 else 1), turn + i * step) for i in range(2 * count)]
    canvas.polygon(outline, words[0])


def _stars(canvas: Canvas, words: list[str]) -> None:
    for x, y in _points(words[2:]):
        _star(canvas, [words[0], str(x), str(y), words[1]])


def _ringstars(canvas: Canvas, words: list[str]) -> None:
    """``ringstars colour x y ring-radius star-radius count``."""
    x, y, ring, _, count = map(float, words[1:6])
    for i in range(int(count)):
        at = canvas.around(x, y, ring, i * 360 / count)
        _star(canvas, [words[0], str(at[0]), str(at[1]), words[4]])


def _starfield(canvas: Canvas, words: list[str]) -> None:
    """``starfield colour width height rows columns``: stars in a canton, in a quincunx."""
    width, height, rows, columns = map(float, words[1:5])
    for row in range(int(rows)):
        for column in range(row % 2, int(columns), 2):
            x, y = (column + 1) * width / (columns + 1), (row + 1) * height / (rows + 1)
            _star(canvas, [words[0], str(x), str(y), "0.03"])


def _hexagram(canvas: Canvas, words: list[str]) -> None:
    """``hexagram colour x y radius line-width``: two outlined triangles."""
    x, y, radius = map(float, words[1:4])
    for turn in (0, 180):
        corners = [canvas.around(x, y, radius, turn + i * 120) for i in (0, 1, 2, 0, 1)]
        _stroke(canvas, words[0], float(words[4]), corners)


def _stroke(canvas: Canvas, colour: str, width: float, points: list[Point]) -> None:
    pixels = [canvas.px(*point) for point in points]
    canvas.draw.line(pixels, _colour(colour), round(canvas.units(width)), joint="curve")


def _line(canvas: Canvas, words: list[str]) -> None:
    """``line colour width x,y x,y ...``."""
    _stroke(canvas, words[0], float(words[1]), _points(words[2:]))


def _cross(canvas: Canvas, words: list[str]) -> None:
    """``cross colour x width``: its upright at x, its bar at half height."""
    x, half = float(words[1]), float(words[2]) / 2
    across = half / canvas.aspect
    _rect(canvas, [words[0], str(x - across), "0", str(x + across), "1"])
    _rect(canvas, [words[0], "0", str(0.5 - half), "1", str(0.5 + half)])


def _saltire(canvas: Canvas, words: list[str]) -> None:
    for start, end in (((-0.2, -0.2), (1.2, 1.2)), ((-0.2, 1.2), (1.2, -0.2))):
        _stroke(canvas, words[0], float(words[1]), [start, end])


def _x(canvas: Canvas, words: list[str]) -> None:
    """``x colour x y radius line-width``: a small saltire."""
    x, y, radius = map(float, words[1:4])
    for turn in (45, 135):
        ends = [canvas.around(x, y, radius, turn), canvas.around(x, y, radius, turn + 180)]
        _stroke(canvas, words[0], float(words[4]), ends)


def _union(canvas: Canvas, words: list[str]) -> None:
    """``union left top right bottom``: the Union Jack in a box."""
    left, top, right, bottom = map(float, words)
    aspect = canvas.aspect * (right - left) / (bottom - top)
    jack = Canvas.blank(aspect)
    for name, *arguments in (
        ("bg", "#012169"),
        ("saltire", "w", ".2"),
        ("line", "#c8102e", ".067", "-.02,.02", "1,1.04"),
        ("line", "#c8102e", ".067", "-.02,.98", "1,-.04"),
        ("cross", "w", ".5", ".333"),
        ("cross", "#c8102e", ".5", ".2"),
    ):
        OPERATIONS[name](jack, list(arguments))
    x, y = canvas.px(left, top)
    size = (round((right - left) * canvas.image.width), round((bottom - top) * canvas.image.height))
    canvas.image.paste(jack.image.resize(size, Image.Resampling.BOX), (round(x), round(y)))


def _checker(canvas: Canvas, words: list[str]) -> None:
    """``checker colour colour columns rows``."""
    columns, rows = int(words[2]), int(words[3])
    for row in range(rows):
        for column in range(columns):
            corners = (column / columns, row / rows, (column + 1) / columns, (row + 1) / rows)
            _rect(canvas, [words[(row + column) % 2], *map(str, corners)])


def _diagonals(canvas: Canvas, words: list[str]) -> None:
    """``diagonals colour colour pairs``: stripes that rise to the fly."""
    pairs = int(words[2])
    _bg(canvas, words)
    for i in range(pairs):
        start, end = (2 * i + 1) / pairs, (2 * i + 2) / pairs
        canvas.polygon([(start, 0), (end, 0), (end - 2, 2), (start - 2, 2)], words[1])


def _lozenges(canvas: Canvas, words: list[str]) -> None:
    _bg(canvas, words)
    for row in range(-1, 6):
        for column in range(-1, 9):
            x, y = column / 7 + row / 14, row / 5
            canvas.polygon([(x, y), (x + 0.11, y + 0.1), (x + 0.143, y + 0.3), (x + 0.033, y + 0.2)], words[1])


def _fan(canvas: Canvas, centre: Point, rays: int, span: tuple[float, float], colours: list[str]) -> None:
    """Rays from `centre` over the angles of `span`, in turn in `colours` (an empty one is left out)."""
    step = (span[1] - span[0]) / rays
    for i in range(rays):
        ends = [canvas.around(*centre, 3, span[0] + (i + k) * step) for k in (0, 1)]
        if colour := colours[i % len(colours)]:
            canvas.polygon([centre, *ends], colour)


def _rays(canvas: Canvas, words: list[str]) -> None:
    """``rays colour colour count``: a setting sun over the upper half."""
    _fan(canvas, (0.5, 0.5), int(words[2]), (-90, 90), words[:2])


def _sunburst(canvas: Canvas, words: list[str]) -> None:
    """``sunburst colour x y count``."""
    count = int(words[3])
    _fan(
        canvas, (float(words[1]), float(words[2])), 2 * count, (-180 / count / 2, 360 - 180 / count / 2), [words[0], ""]
    )


def _trefoil(canvas: Canvas, words: list[str]) -> None:
    """``trefoil colour x y radius background``."""
    x, y, radius = map(float, words[1:4])
    for start in (60, 180, 300):
        canvas.draw.pieslice(canvas.box(x, y, radius), start, start + 60, fill=_colour(words[0]))
    _disc(canvas, [words[4], words[1], words[2], str(radius * 0.3)])
    _disc(canvas, [words[0], words[1], words[2], str(radius * 0.2)])


def _zia(canvas: Canvas, words: list[str]) -> None:
    """The sun of the Zia: a ring and four groups of four rays."""
    _ring(canvas, [words[0], ".5", ".5", ".15", ".035"])
    for offset, reach in ((-0.075, 0.3), (-0.025, 0.37), (0.025, 0.37), (0.075, 0.3)):
        for sign in (-1, 1):
            across = [(0.5 + sign * r / canvas.aspect, 0.5 + offset) for r in (0.16, reach)]
            down = [(0.5 + offset / canvas.aspect, 0.5 + sign * r) for r in (0.16, reach)]
            _stroke(canvas, words[0], 0.025, across)
            _stroke(canvas, words[0], 0.025, down)


def _lily(canvas: Canvas, words: list[str]) -> None:
    """``lily colour x y radius``: a fleur-de-lis."""
    x, y, radius = map(float, words[1:4])
    dx = radius / canvas.aspect
    canvas.polygon(
        [(x, y - radius), (x + dx * 0.35, y - radius * 0.2), (x, y + radius), (x - dx * 0.35, y - radius * 0.2)],
        words[0],
    )
    for sign in (-1, 1):
        petal = [(0.15, 0.25), (0.5, -0.5), (0.95, -0.25), (0.8, 0.15), (0.6, -0.1), (0.3, 0.35)]
        canvas.polygon([(x + sign * dx * px, y + radius * py) for px, py in petal], words[0])
    _stroke(canvas, words[0], radius * 0.25, [(x - dx * 0.6, y + radius * 0.35), (x + dx * 0.6, y + radius * 0.35)])


def _serrate(canvas: Canvas, words: list[str]) -> None:
    """``serrate colour inner outer points``: a band at the hoist with a jagged edge."""
    inner, outer, count = float(words[1]), float(words[2]), int(words[3])
    edge = [(outer if i % 2 else inner, i / (2 * count)) for i in range(2 * count + 1)]
    canvas.polygon([(0, 0), *edge, (0, 1)], words[0])


def _octagon(canvas: Canvas, words: list[str]) -> None:
    scale = float(words[1])
    canvas.polygon([((x - 0.5) * scale + 0.5, (y - 0.5) * scale + 0.5) for x, y in OUTLINES["octagon"]], words[0])


def _text(canvas: Canvas, words: list[str]) -> None:
    """``text colour x y size word``."""
    font = ImageFont.load_default(canvas.units(float(words[3])))
    at = canvas.px(float(words[1]), float(words[2]))
    canvas.draw.text(
        at,
        words[4],
        _colour(words[0]),
        font,
        anchor="mm",
        stroke_width=canvas.units(0.012),
        stroke_fill=_colour(words[0]),
    )


OPERATIONS: dict[str, Callable[[Canvas, list[str]], None]] = {
    "bg": _bg,
    "h": lambda canvas, words: _stripes(canvas, words, vertical=False),
    "v": lambda canvas, words: _stripes(canvas, words, vertical=True),
    "rect": _rect,
    "poly": _poly,
    "tri": _tri,
    "disc": _disc,
    "ring": _ring,
    "halfring": _halfring,
    "halfdisc": _halfdisc,
    "star": _star,
    "stars": _stars,
    "ringstars": _ringstars,
    "starfield": _starfield,
    "hexagram": _hexagram,
    "line": _line,
    "cross": _cross,
    "saltire": _saltire,
    "x": _x,
    "union": _union,
    "checker": _checker,
    "diagonals": _diagonals,
    "lozenges": _lozenges,
    "rays": _rays,
    "sunburst": _sunburst,
    "trefoil": _trefoil,
    "zia": _zia,
    "lily": _lily,
    "serrate": _serrate,
    "octagon": _octagon,
    "text": _text,
}
"""Operations by name."""

OUTLINES: dict[str, list[Point]] = {
    "octagon": [(0.29, 0), (0.71, 0), (1, 0.29), (1, 0.71), (0.71, 1), (0.29, 1), (0, 0.71), (0, 0.29)],
    "diamond": [(0.5, 0), (1, 0.5), (0.5, 1), (0, 0.5)],
    "triangle": [(0.5, 0), (1, 1), (0, 1)],
    "triangle-down": [(0, 0), (1, 0), (0.5, 1)],
    "triangle-fly": [(0, 0), (1, 0.5), (0, 1)],
    "pennant": [(0, 0), (1, 0.3), (1, 0.7), (0, 1)],
    "swallowtail": [(0, 0), (1, 0), (0.72, 0.5), (1, 1), (0, 1)],
    "nepal": [(0, 0), (1, 0.55), (0.55, 0.55), (1, 1), (0, 1)],
    "disc": [(0.5 + math.sin(t / 32 * math.pi) / 2, 0.5 + math.cos(t / 32 * math.pi) / 2) for t in range(64)],
    "crossbuck": [
        *[(0, 0.08), (0.12, 0), (0.5, 0.36), (0.88, 0), (1, 0.08), (1, 0.2), (0.62, 0.5), (1, 0.8)],
        *[(1, 0.92), (0.88, 1), (0.5, 0.64), (0.12, 1), (0, 0.92), (0, 0.8), (0.38, 0.5), (0, 0.2)],
    ],
}
"""What a sign is cut to: corners as fractions of its width and height."""

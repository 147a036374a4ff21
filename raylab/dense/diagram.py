"""Cells drawn as diagrams (SVG): the backbone's map on the left, branches by depth, all outputs joined on the right."""

from __future__ import annotations

from html import escape

from raylab.models.cell_space import BACKBONE, Branch, Cell

WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN = 164, 34, 46, 14, 10
"""Pixels of a box, and between boxes."""
COLOURS = {"conv1x1": "#d9e6f7", "separable": "#dff2dd", "pooling": "#fbe6cf"}
Point = tuple[float, float]


def columns(cell: Cell) -> list[int]:
    """Return for each branch its column: 1 behind the backbone's map, one more behind another branch."""
    found: list[int] = []
    for branch in cell:
        found.append(1 if branch.input == BACKBONE else found[branch.input] + 1)
    return found


def draw_cell(cell: Cell) -> str:
    """Return a cell as an SVG element that loads nothing."""
    depth = columns(cell)
    last = max(depth) + 1
    row_of, rows = _rows(depth)
    width = 2 * MARGIN + (last + 1) * WIDTH + last * GAP_X
    height = 2 * MARGIN + rows * HEIGHT + (rows - 1) * GAP_Y
    middle = height / 2 - HEIGHT / 2
    places = [(_x(column), MARGIN + row_of[place] * (HEIGHT + GAP_Y)) for place, column in enumerate(depth)]
    source, sink = (_x(0), middle), (_x(last), middle)
    lines = [_arrow(source if one.input == BACKBONE else places[one.input], at) for one, at in zip(cell, places)]
    joins = [_arrow(at, sink, faint=True) for at in places]
    boxes = [_box(at, str(branch), f"{n}", COLOURS[branch.op]) for n, (branch, at) in enumerate(zip(cell, places))]
    ends = [_box(source, "backbone", "F", "#eeeeee"), _box(sink, "concat, 1x1 conv", "", "#eeeeee")]
    about = escape("; ".join(_said(place, branch) for place, branch in enumerate(cell)))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {width} {height:g}" width="{width}" '
        f'height="{height:g}" font-family="system-ui, sans-serif" font-size="11"><title>{about}</title>'
        f"{''.join([*joins, *lines, *boxes, *ends])}</svg>"
    )


def _said(place: int, branch: Branch) -> str:
    source = "backbone" if branch.input == BACKBONE else f"branch {branch.input}"
    return f"{place}: {branch} of {source}"


def _rows(depth: list[int]) -> tuple[list[int], int]:
    """Return each branch's row, and how many there are; those of a column lie below each other."""
    used: dict[int, int] = {}
    found = []
    for column in depth:
        found.append(used.get(column, 0))
        used[column] = found[-1] + 1
    return found, max(used.values())


def _x(column: int) -> float:
    return MARGIN + column * (WIDTH + GAP_X)


def _arrow(start: Point, end: Point, faint: bool = False) -> str:
    x0, y0, x1, y1 = start[0] + WIDTH, start[1] + HEIGHT / 2, end[0], end[1] + HEIGHT / 2
    bend = min(GAP_X, (x1 - x0) / 2)
    style = 'stroke="#c9c9c9" stroke-dasharray="3 3"' if faint else 'stroke="#444444"'
    return f'<path d="M{x0:g} {y0:g} C{x0 + bend:g} {y0:g} {x1 - bend:g} {y1:g} {x1:g} {y1:g}" fill="none" {style}/>'


def _box(at: Point, text: str, number: str, colour: str) -> str:
    x, y = at
    label = escape(f"{number}  {text}".strip())
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" rx="5" fill="{colour}" stroke="#888888"/>'
        f'<text x="{x + WIDTH / 2:g}" y="{y + HEIGHT / 2 + 4:g}" text-anchor="middle">{label}</text>'
    )

"""Draws the figures of a benchmark as PNG. No window, and no setting of matplotlib's is changed for others."""

from __future__ import annotations

import io
from typing import Any

from raylab.evaluate.base import Curve, Figure, Sheet, WorstPairs
from raylab.evaluate.image_set import LIMITS, ImageSet
from raylab.schema import Reason
from raylab.sources.images import ImageRefused, open_image

DPI = 110
THUMBNAIL = 160
"""Pixels of the shorter side to which a JPEG of a sheet is scaled while it is decoded."""
QUERY, RIGHT, WRONG = "#57606a", "#1a7f37", "#cf222e"
"""Colours of the frames around pictures."""
TITLE_CHARS = 22


def draw(figure: Figure) -> bytes:
    """Return a figure as PNG."""
    kinds: dict[type, Any] = {Curve: _curve, WorstPairs: _pairs, Sheet: _sheet}
    canvas = kinds[type(figure)](figure)
    buffer = io.BytesIO()
    canvas.savefig(buffer, format="png", dpi=DPI, bbox_inches="tight")
    return buffer.getvalue()


def _canvas(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(canvas)
    return canvas


def _curve(figure: Curve) -> Any:
    canvas = _canvas(5, 4)
    axes = canvas.add_subplot()
    axes.plot(figure.x, figure.y, marker="." if len(figure.x) < 30 else None)
    axes.set(xlabel=figure.axes[0], ylabel=figure.axes[1], xlim=(0, 1), ylim=(0, 1.02), title=_plain(figure.title))
    axes.grid(alpha=0.3)
    return canvas


def _pairs(figure: WorstPairs) -> Any:
    canvas = _canvas(7, 0.9 + 0.28 * max(1, len(figure.pairs)))
    axes = canvas.add_subplot()
    places = range(len(figure.pairs))
    axes.barh(places, [count for *_, count in figure.pairs], color=WRONG)
    axes.set_yticks(places, [_plain(f"{true} → {said}", 60) for true, said, _ in figure.pairs], fontsize=8)
    axes.invert_yaxis()
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(title=_plain(figure.title), xlabel="times (true class → class said)" if figure.pairs else "no mistakes")
    return canvas


def _sheet(figure: Sheet) -> Any:
    columns = 1 + max((len(row.found) for row in figure.rows), default=0)
    canvas = _canvas(1.5 * columns, 1.75 * max(1, len(figure.rows)))
    canvas.suptitle(_plain(figure.title))
    grid = canvas.subplots(max(1, len(figure.rows)), columns, squeeze=False)
    for cell in grid.ravel():
        cell.set_axis_off()
    for row, cells in zip(figure.rows, grid):
        _picture(cells[0], figure.queries, row.query, QUERY)
        for cell, found, right in zip(cells[1:], row.found, row.right):
            _picture(cell, figure.index, found, RIGHT if right else WRONG)
    return canvas


def _picture(cell: Any, images: ImageSet, row: int, colour: str) -> None:
    """Show one image in a frame of a colour, its class above; where it cannot be read, the reason."""
    cell.set_axis_on()
    cell.set(xticks=[], yticks=[])
    cell.set_title(_plain(images.names_of(images.labels[row])[0], TITLE_CHARS), fontsize=7, color=colour)
    for spine in cell.spines.values():
        spine.set(color=colour, linewidth=3)
    picture = _open(images, row)
    if isinstance(picture, Reason):
        cell.text(0.5, 0.5, picture.value, ha="center", va="center", fontsize=7, transform=cell.transAxes)
    else:
        cell.imshow(picture)


def _open(images: ImageSet, row: int) -> Any:
    """Return the decoded image, or the reason why it cannot be had."""
    (data,) = images.source.image_bytes([images.refs[row]])
    if isinstance(data, Reason):
        return data
    try:
        return open_image(data, LIMITS, THUMBNAIL)
    except ImageRefused as refused:
        return refused.reason


def _plain(text: str, most: int = 90) -> str:
    """Return a class's name as matplotlib shows it as it is: not too long, and with no dollar read as a formula."""
    return (text if len(text) <= most else text[: most - 1] + "…").replace("$", r"\$")

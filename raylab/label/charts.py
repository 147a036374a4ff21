"""The geometry of the report's figures: histograms as bars in a fixed view box, ready for a template to draw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from raylab.label.survey import Histogram

WIDTH, HEIGHT = 360, 150
"""The view box, in SVG units."""
_TOP, _BOTTOM, _GAP = 14, 18, 1.0
_STACK = ("right", "labelled", "wrong", "abstained", "rejected", "entities")


@dataclass(frozen=True)
class Segment:
    """One series' part of a bar, in SVG units."""

    x: float
    y: float
    width: float
    height: float
    series: str
    tip: str
    """What a pointer or a screen reader is told."""


@dataclass(frozen=True)
class Chart:
    """A histogram, laid out."""

    title: str
    summary: str
    """The figure in words, for those who do not see it."""
    segments: list[Segment]
    ticks: list[tuple[float, str]]
    """Positions along x, and their labels."""
    peak: int
    """Rows in the tallest bar, which reaches the top line."""
    legend: list[tuple[str, int]]
    """Series and their totals, in the order of the stack from below."""

    top: float = _TOP
    base: float = HEIGHT - _BOTTOM


def lay_out(
    title: str, histogram: Histogram, every: int, text: Callable[[float], str], unit: str = "rows"
) -> Chart | None:
    """Return the chart of `histogram`, its series stacked; None where it has counted nothing.

    Args:
        title: the figure's heading.
        histogram: what to draw; every bin gets the same width.
        every: how many bins lie between two labels on the axis.
        text: writes an edge as a label.
        unit: what is counted, for the tips.
    """
    stacked = [(name, histogram.series[name]) for name in _STACK if name in histogram.series]
    stacked = [(name, counts) for name, counts in stacked if counts.sum()]
    if not stacked:
        return None
    heights = sum(counts for _, counts in stacked)
    peak = int(heights.max())  # type: ignore[union-attr]
    edges = histogram.edges
    step = WIDTH / (len(edges) - 1)
    scale = (HEIGHT - _TOP - _BOTTOM) / peak
    segments = []
    for number in range(len(edges) - 1):
        y = float(HEIGHT - _BOTTOM)
        for name, counts in stacked:
            height = float(counts[number]) * scale
            y -= height
            tip = f"{text(edges[number])} to {text(edges[number + 1])}: {counts[number]:,} {unit}, {name}"
            segments.append(Segment(number * step + _GAP / 2, y, step - _GAP, height, name, tip))
    places = [(number * step, text(edges[number])) for number in range(0, len(edges), every)]
    legend = [(name, int(counts.sum())) for name, counts in stacked]
    words = "; ".join(f"{total:,} {unit} {name}" for name, total in legend)
    summary = f"{title}: {words}; half of all lie below {text(histogram.quantile(0.5))}"
    return Chart(title, summary, [s for s in segments if s.height > 0], places, peak, legend)

"""The geometry of the report's figures, in a fixed view box, ready for a template to draw."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from raylab.label.survey import Histogram

WIDTH, HEIGHT = 360, 150
"""The view box, in SVG units."""
_TOP, _BOTTOM, _GAP = 14, 18, 1.0
_STACK = ("right", "labelled", "wrong", "abstained", "rejected", "kept", "cut")


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
    threshold: tuple[float, str] | None
    """Position along x of the threshold that a row had to reach, and its value."""

    top: float = _TOP
    base: float = HEIGHT - _BOTTOM


@dataclass(frozen=True)
class Curve:
    """Precision against the share of labels kept, as the score's threshold rises from right to left."""

    title: str
    summary: str
    points: str
    """An SVG polyline's points."""
    marks: list[tuple[float, float, str, str]]
    """Positions x, y on the curve, the label there and the tip."""
    ticks: list[tuple[float, str]]
    lines: list[tuple[float, str]]
    """Heights of the grid lines, and their labels."""


def lay_out(
    title: str,
    histogram: Histogram,
    every: int,
    text: Callable[[float], str],
    *,
    unit: str = "rows",
    threshold: float | None = None,
) -> Chart | None:
    """Return the chart of `histogram`, its series stacked; None where it has counted nothing.

    Args:
        title: the figure's heading.
        histogram: what to draw; every bin gets the same width.
        every: how many bins lie between two labels on the axis.
        text: writes an edge as a label.
        unit: what is counted, for the tips.
        threshold: a value to mark on the axis.
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
    mark = None
    if threshold is not None:
        mark = float(np.interp(threshold, edges, np.arange(len(edges)))) * step, text(threshold)
        summary += f"; rows need {mark[1]}"
    return Chart(title, summary, [s for s in segments if s.height > 0], places, peak, legend, mark)


def precision_curve(title: str, score: Histogram, floor: float | None = None) -> Curve | None:
    """Return what a higher threshold would have given: precision of the surest share of the labels.

    Args:
        title: the figure's heading.
        score: labelled rows in the series ``right`` and ``wrong``; others are ignored.
        floor: the precision at the bottom, where curves are to be compared; None: what this one needs.

    Returns:
        The curve from the surest twentieth of the labels to all of them; None where fewer than 20 have a known truth.
    """
    kept, good = _kept(score)
    total = int(kept[-1])
    if total < 20:
        return None
    share, precision = kept / total, good / np.maximum(kept, 1)
    seen = share >= 0.05
    floor = lowest_precision(score) if floor is None else floor
    scale = HEIGHT - _TOP - _BOTTOM

    def place(number: int) -> tuple[float, float]:
        return float(share[number]) * WIDTH, _TOP + float(1 - precision[number]) / (1 - floor) * scale

    points = [place(number) for number in np.flatnonzero(seen).tolist()]
    marks = []
    for wanted in (0.5, 0.8, 1.0):
        number = int(np.searchsorted(share, wanted))
        threshold = float(score.edges[-2 - number])
        tip = f"surest {share[number]:.0%} of the labels, score from {threshold:.3f}: precision {precision[number]:.3f}"
        marks.append((*place(number), f"{precision[number]:.3f}", tip))
    return Curve(
        title,
        f"{title}: " + "; ".join(tip for *_, tip in marks),
        " ".join(f"{x:.1f},{y:.1f}" for x, y in points),
        marks,
        [(WIDTH * part / 4, f"{part * 25} %") for part in range(5)],
        [(float(_TOP), "1"), (_TOP + scale / 2, f"{(1 + floor) / 2:.3g}"), (float(HEIGHT - _BOTTOM), f"{floor:.3g}")],
    )


def lowest_precision(score: Histogram) -> float:
    """Return the round precision below which the curve of a score does not fall; 0.9 where there is none."""
    kept, good = _kept(score)
    seen = kept >= max(1.0, 0.05 * kept[-1])
    return min(0.9, np.floor(float((good / np.maximum(kept, 1))[seen].min(initial=1.0)) * 10) / 10)


def _kept(score: Histogram) -> tuple[np.ndarray, np.ndarray]:
    """Return labels kept, and right ones among them, as the threshold falls bin by bin."""
    right, wrong = (score.series.get(name, np.zeros(len(score.edges) - 1, np.int64)) for name in ("right", "wrong"))
    return np.cumsum((right + wrong)[::-1]), np.cumsum(right[::-1])


@dataclass(frozen=True)
class Reliability:
    """How often labels of a score are right, a dot a bin; on the diagonal, the score is the probability of that."""

    title: str
    summary: str
    dots: list[tuple[float, float, float, str]]
    """Positions x, y, the radius, the tip."""
    ticks: list[tuple[float, str]]
    lines: list[tuple[float, str]]
    legend: str

    top: float = _TOP
    base: float = HEIGHT - _BOTTOM


def reliability(title: str, figures: Mapping[str, Any], judged_by: str) -> Reliability | None:
    """Return the reliability diagram of a score.

    Args:
        title: the figure's heading.
        figures: see `calibration.calibration`.
        judged_by: who told right from wrong, for the legend.

    Returns:
        None where nothing was judged.
    """
    if not figures["bins"]:
        return None
    scale = HEIGHT - _TOP - _BOTTOM
    dots = []
    for one in figures["bins"]:
        means = f"mean {one['score']:.3f}, right {one['right']:.3f}, {one['judged']:,} judged"
        tip = f"{one['low']:.1f} to {one['high']:.1f}: {means}"
        x, y = one["score"] * WIDTH, _TOP + (1 - one["right"]) * scale
        dots.append((x, y, 2.5 + 6 * float(np.sqrt(one["share"])), tip))
    errors = f"calibration error {figures['ece']:.3f}, Brier {figures['brier']:.3f}"
    legend = f"{figures['judged']:,} labels judged by {judged_by}; {errors}"
    return Reliability(
        title,
        f"{title}: {legend}; " + "; ".join(tip for *_, tip in dots),
        dots,
        [(WIDTH * part / 4, f"{part / 4:g}") for part in range(5)],
        [(float(_TOP), "1"), (_TOP + scale / 2, "0.5"), (float(HEIGHT - _BOTTOM), "0")],
        legend,
    )

"""The geometry of the figures."""

import numpy as np
import pytest

from raylab.label.calibration import Scored, calibration
from raylab.label.charts import HEIGHT, WIDTH, lay_out, lowest_precision, precision_curve, reliability
from raylab.label.survey import UNIT_EDGES, Histogram


def histogram(**values: list[float]) -> Histogram:
    made = Histogram(np.linspace(0, 1, 11))
    for name, numbers in values.items():
        made.add(name, np.array(numbers))
    return made


def test_bars_stack_and_the_tallest_reaches_the_top_line() -> None:
    chart = lay_out("Score", histogram(right=[0.05, 0.05, 0.95], wrong=[0.05]), 5, "{:.1f}".format)
    assert chart is not None
    first = [segment for segment in chart.segments if segment.x < WIDTH / 10]
    assert [segment.series for segment in first] == ["right", "wrong"]
    assert first[0].y == pytest.approx(first[1].y + first[1].height)
    assert first[1].y == pytest.approx(chart.top)
    assert chart.peak == 3
    assert chart.legend == [("right", 3), ("wrong", 1)]
    assert chart.ticks == [(0.0, "0.0"), (WIDTH / 2, "0.5"), (WIDTH, "1.0")]
    assert all(s.x >= 0 and s.x + s.width <= WIDTH and s.y + s.height <= HEIGHT for s in chart.segments)
    assert first[0].tip == "0.0 to 0.1: 2 rows, right"


def test_a_threshold_stands_where_its_value_lies() -> None:
    chart = lay_out("Score", histogram(right=[0.5]), 5, "{:.2f}".format, threshold=0.25)
    assert chart is not None
    assert chart.threshold == (pytest.approx(WIDTH / 4), "0.25")
    assert "rows need 0.25" in chart.summary


def test_nothing_counted_is_no_figure() -> None:
    assert lay_out("Score", histogram(right=[]), 5, str) is None


def test_the_curve_tells_the_precision_of_the_surest_share() -> None:
    score = Histogram(UNIT_EDGES)
    score.add("right", np.linspace(0.5, 0.99, 50))
    score.add("wrong", np.linspace(0.01, 0.49, 50))
    curve = precision_curve("Precision", score)
    assert curve is not None
    assert [label for *_, label, _ in curve.marks] == ["1.000", "0.625", "0.500"]
    assert "surest 50% of the labels, score from 0.5" in curve.summary


def test_a_curve_needs_enough_known_rows() -> None:
    score = Histogram(UNIT_EDGES)
    score.add("right", np.linspace(0, 1, 19))
    score.add("labelled", np.linspace(0, 1, 500))
    assert precision_curve("Precision", score) is None


def test_curves_that_are_compared_have_one_floor() -> None:
    good, poor = Histogram(UNIT_EDGES), Histogram(UNIT_EDGES)
    good.add("right", np.linspace(0.1, 0.9, 50))
    poor.add("right", np.linspace(0.5, 0.99, 50))
    poor.add("wrong", np.linspace(0.01, 0.49, 50))
    assert (lowest_precision(good), lowest_precision(poor), lowest_precision(Histogram(UNIT_EDGES))) == (0.9, 0.5, 0.9)
    curve = precision_curve("Precision", good, 0.5)
    assert curve is not None
    assert curve.lines[-1][1] == "0.5"


def test_a_reliability_diagram_has_a_dot_a_bin_on_the_diagonal_where_honest() -> None:
    score = Histogram(UNIT_EDGES)
    random = np.random.default_rng(0)
    sure = random.random(50_000)
    right = random.random(50_000) < sure
    score.add("right", sure[right])
    score.add("wrong", sure[~right])
    figures = calibration(Scored.of_histogram(score.edges, score.series["right"], score.series["wrong"]), whole=True)
    assert figures["judged"] == 50_000
    figure = reliability("Reliability", figures, "people")
    assert figure is not None
    assert len(figure.dots) == 10
    scale = figure.base - figure.top
    assert all(abs(x / WIDTH - (figure.base - y) / scale) < 0.03 for x, y, *_ in figure.dots)
    assert "judged by people" in figure.legend
    assert reliability("Reliability", {"bins": []}, "people") is None

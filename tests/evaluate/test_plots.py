import io

import numpy as np
import pytest
from evaluate.small_sets import coloured
from PIL import Image

from raylab.evaluate.base import Curve, Sheet, SheetRow, WorstPairs
from raylab.evaluate.confusion import SHEET_ROWS, sheet, worst_pairs
from raylab.evaluate.plots import QUERY, RIGHT, WRONG, draw

pytest.importorskip("matplotlib", reason="plots need matplotlib")


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def share(picture: np.ndarray, colour: str) -> float:
    wanted = [int(colour[start : start + 2], 16) for start in (1, 3, 5)]
    return float((np.abs(picture.astype(int) - wanted).max(axis=2) < 8).mean())


def test_a_curve_is_a_png_with_something_on_it():
    found = pixels(draw(Curve("a & b $", ("recall", "precision"), np.linspace(0, 1, 101), np.linspace(1, 0.2, 101))))
    assert found.shape[0] > 200 and len(np.unique(found.reshape(-1, 3), axis=0)) > 10


def test_pairs_are_drawn_also_where_there_are_none():
    many = draw(WorstPairs("pairs", (("a$b$", "c" * 200, 3), ("d", "e", 1))))
    assert share(pixels(many), WRONG) > 0.05
    assert share(pixels(draw(WorstPairs("pairs", ()))), WRONG) == 0


def test_a_sheet_frames_right_and_wrong_and_shows_what_cannot_be_read():
    images = coloured(per_class=2, bad=[5])
    rows = (SheetRow(0, (1, 2), (True, False)), SheetRow(4, (5, 3), (True, False)))
    found = pixels(draw(Sheet("sheet", images, images, rows)))
    assert min(share(found, colour) for colour in (QUERY, RIGHT, WRONG)) > 0.001
    assert share(found, "#dc1e1e") > 0.005  # the red picture itself
    all_right = (SheetRow(0, (1,), (True,)),)
    assert share(pixels(draw(Sheet("sheet", images, images, all_right))), WRONG) < 0.001


def test_drawing_leaves_the_users_matplotlib_alone():
    import matplotlib

    before = dict(matplotlib.rcParams)
    backend = matplotlib.get_backend(auto_select=False)
    draw(Curve("t", ("x", "y"), np.array([0, 1]), np.array([1, 0])))
    assert dict(matplotlib.rcParams) == before and matplotlib.get_backend(auto_select=False) == backend


def test_the_worst_pairs_are_the_most_frequent():
    images = coloured(per_class=3)  # red x 3, green x 3, blue x 3
    said = ["blue", "blue", "red", None, "red", "green", "blue", "green", "green"]
    found = worst_pairs("t", images, said).pairs
    assert found == (
        ("blue thing", "green thing", 2),
        ("red thing", "blue thing", 2),
        ("green thing", "nothing", 1),
        ("green thing", "red thing", 1),
    )


@pytest.mark.parametrize(("wrong", "expected"), [(0, 0), (3, 3), (30, 6), (60, 12)])
def test_a_sheet_shows_wrong_and_right_queries_as_far_as_there_are(wrong, expected):
    images = coloured(per_class=20)
    found = np.arange(60)[:, None].repeat(2, axis=1)
    labels = list(images.labels)
    for place in range(wrong):
        labels[place] = "something else"
    rows = sheet("t", images, images, found, labels).rows
    assert len(rows) == SHEET_ROWS and len({row.query for row in rows}) == SHEET_ROWS
    assert sum(not row.right[0] for row in rows) == expected

"""Diagrams of cells are SVG that parses, with a box a branch and an arrow an input."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np

from raylab.dense.diagram import columns, draw_cell
from raylab.models.cell_space import NAMED, PUBLISHED, uniform

SVG = "{http://www.w3.org/2000/svg}"


def test_a_branch_stands_behind_its_input() -> None:
    assert columns(PUBLISHED) == [1, 2, 3, 2, 2]


def test_every_cell_is_drawn_whole() -> None:
    rng = np.random.default_rng(0)
    for cell in (*NAMED.values(), *(uniform(rng) for _ in range(30))):
        root = ElementTree.fromstring(draw_cell(cell))
        boxes = root.findall(f"{SVG}rect")
        assert len(boxes) == len(cell) + 2 and len(root.findall(f"{SVG}path")) == 2 * len(cell)
        width, height = float(root.attrib["width"]), float(root.attrib["height"])
        corners = {(float(box.attrib["x"]), float(box.attrib["y"])) for box in boxes}
        assert len(corners) == len(boxes)  # none lies on another one
        assert all(0 <= x < width and 0 <= y < height for x, y in corners)
        texts = [text.text or "" for text in root.findall(f"{SVG}text")]
        assert all(any(str(branch) in text for text in texts) for branch in cell)

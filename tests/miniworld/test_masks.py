"""Masks agree with what is drawn: pixels that change with what a thing is painted with are the thing's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import ImageDraw

from raylab.sources.miniworld import scene
from raylab.sources.miniworld.masks import CARRIERS, CLASSES, PARTS, mask
from raylab.sources.miniworld.samples import painting, picture, sample
from raylab.sources.miniworld.scene import SIZE

ROWS = range(40)
BLACK, WHITE = (0, 0, 0), (255, 255, 255)


def evenly_lit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take light, noise and blur away: what is left is what covers what."""
    bend = scene._bend
    monkeypatch.setattr(scene, "_bend", lambda *given: (*bend(*given)[:2], np.float32(1)))
    monkeypatch.setattr(scene, "_light", lambda lit, rng: lit)
    monkeypatch.setattr(scene.Image.Image, "filter", lambda image, blur: image)


def drawn(row: int) -> np.ndarray:
    """The picture, float [SIZE, SIZE] in 0..1: one colour, as black and white are alike in all."""
    return np.asarray(painting(sample(7, row)).image, np.float64)[..., 0] / 255


def share_of(part: str, row: int, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """How much of each pixel shows a part: what changes where the part alone is white, then black."""
    pictures = []
    for colour in (WHITE, BLACK):
        with monkeypatch.context() as patch:
            evenly_lit(patch)
            _paint_all(part, colour, patch)
            pictures.append(drawn(row))
    return pictures[0] - pictures[1]


def _paint_all(part: str, colour: tuple[int, int, int], patch: pytest.MonkeyPatch) -> None:
    texture, body = scene.texture, scene.body

    def painted(entity_id: str) -> np.ndarray:
        pixels = texture(entity_id).copy()
        if part == ("flag" if "flag" in scene.BY_ID[entity_id].types else "sign"):
            pixels[..., :3] = colour
        return pixels

    def bodied(pen: ImageDraw.ImageDraw, carrier: str, quad: Any, own: Any) -> None:
        body(_OneColour(pen, colour) if carrier == part else pen, carrier, quad, own)

    patch.setattr(scene, "texture", painted)
    patch.setattr(scene, "_pyramid", scene._pyramid.__wrapped__)
    patch.setattr(scene, "body", bodied)


class _OneColour:
    """A pen that has one colour, whatever it is told."""

    def __init__(self, pen: ImageDraw.ImageDraw, colour: tuple[int, int, int]) -> None:
        self._pen, self._colour = pen, colour

    def __getattr__(self, name: str) -> Any:
        def draw(shape: Any, **given: Any) -> None:
            colours = {key: self._colour for key in ("fill", "outline") if given.get(key) is not None}
            getattr(self._pen, name)(shape, **(given | colours))

        return draw


def test_a_pixel_belongs_to_what_most_of_it_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    for row in ROWS:
        part_HW = mask(painting(sample(7, row)), "parts")
        carriers = {one.carrier for one in painting(sample(7, row)).placements}
        for part in ("flag", "sign", *(carriers & set(CARRIERS))):
            share_HW = share_of(part, row, monkeypatch)
            number = PARTS.index(part)
            assert (part_HW == number)[share_HW > 0.51].all(), (row, part)
            assert not (part_HW == number)[share_HW < 0.24].any(), (row, part)  # of five things at the most
            seen |= {part} if (share_HW > 0.51).any() else set()
    assert len(seen) >= 8  # nearly all parts came up


def test_what_is_nothing_is_background() -> None:
    for row in ROWS:
        found = sample(7, row)
        part_HW = mask(painting(found), "parts")
        assert part_HW.dtype == np.uint8 and part_HW.shape == (SIZE, SIZE)
        allowed = {"background"} | {one.carrier for one in painting(found).placements} | {"flag", "sign"}
        assert {PARTS[number] for number in np.unique(part_HW)} <= allowed
        if not found.entity_ids:
            assert not part_HW.any()


def test_the_default_joins_signs_and_carriers() -> None:
    painted = painting(sample(7, 2))
    part_HW, class_HW = mask(painted, "parts"), mask(painted)
    assert CLASSES == ("background", "flag", "object")
    assert ((class_HW == 0) == (part_HW == 0)).all()
    assert ((class_HW == 1) == (part_HW == 1)).all()
    assert ((class_HW == 2) == (part_HW > 1)).all()


def test_what_stands_before_a_scene_hides_it() -> None:
    painted = next(one for one in map(painting, (sample(7, row) for row in range(200))) if one.cover_HW is not None)
    bare = replace(painted, cover_HW=None)
    hidden_HW = painted.cover_HW > 0.9
    assert not mask(painted, "parts")[hidden_HW].any()
    assert (mask(painted, "parts") == mask(bare, "parts"))[painted.cover_HW == 0].all()


def test_the_picture_of_a_painting_is_that_of_its_row() -> None:
    for row in ROWS:
        assert painting(sample(7, row)).image.tobytes() == picture(sample(7, row)).tobytes()

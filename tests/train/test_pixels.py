"""A picture as the network's input: decoded no finer than its part needs, and never coarser."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from raylab.models.crop import resized
from raylab.sources.images import ImageRefused, Limits, open_image
from raylab.tasks.base import ImageInput
from raylab.train import pixels
from raylab.train.order import generator

SIZE, LIMITS, DRAWS = 64, Limits(), 24
WIDTH, HEIGHT = 640, 480


def photo(seed: int = 0) -> Image.Image:
    """Structure of all sizes, from large areas to single pixels."""
    draw, found = np.random.default_rng(seed), np.zeros((HEIGHT, WIDTH, 3))
    for cell in (160, 40, 10, 4, 2, 1):
        coarse = draw.uniform(0, 255, (HEIGHT // cell, WIDTH // cell, 3))
        found += np.repeat(np.repeat(coarse, cell, 0), cell, 1) / 6
    return Image.fromarray(found.astype(np.uint8))


def jpeg(picture: Image.Image, orientation: int = 1) -> bytes:
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    picture.save(buffer, "JPEG", quality=95, exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize("crop", pixels.CROPS)
def test_a_part_is_never_scaled_up_from_a_coarser_decoding(crop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[tuple[int, int]] = []
    boxes: list[pixels.Box] = []

    def remembering(data: bytes, limits: Limits, side: int | None = None) -> Image.Image:
        picture = open_image(data, limits, side)
        decoded.append(picture.size)
        return picture

    def part(picture: Image.Image, size: int, box: pixels.Box) -> np.ndarray:
        boxes.append(box)
        return resized(picture, size, box)

    monkeypatch.setattr(pixels, "open_image", remembering)
    monkeypatch.setattr(pixels, "resized", part)
    data = jpeg(photo())
    for i in range(DRAWS):
        pixels.open_input(data, LIMITS, ImageInput(SIZE, crop), generator(1, i))
    for left, top, right, bottom in boxes:
        assert min(right - left, bottom - top) >= SIZE - 1
    assert min(decoded) < (WIDTH, HEIGHT), "none was decoded at a part of its size"


def test_a_part_is_that_of_the_picture_decoded_whole() -> None:
    data, differences = jpeg(photo()), []
    for i in range(DRAWS):
        found = pixels.open_input(data, LIMITS, ImageInput(SIZE, "inception"), generator(2, i))
        box = pixels._inception_box(WIDTH, HEIGHT, pixels.LEAST_AREAS["inception"], generator(2, i))
        expected = resized(open_image(data, LIMITS), SIZE, box)
        differences.append(np.abs(found.astype(float) - expected).mean())
    assert np.mean(differences) < 2.5, "grey levels of 255"


def test_a_picture_that_is_stored_sideways_is_cut_as_it_is_shown() -> None:
    shown = photo()
    stored = shown.transpose(Image.Transpose.ROTATE_90)  # orientation 6 turns it back
    for i in range(4):
        wanted = ImageInput(SIZE, "inception")
        upright, turned = (
            pixels.open_input(data, LIMITS, wanted, generator(3, i)) for data in (jpeg(shown), jpeg(stored, 6))
        )
        assert np.abs(upright.astype(float) - turned).mean() < 2.5


@pytest.mark.parametrize("data", [b"", b"no picture", jpeg(photo())[:200], b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(ImageRefused):
        pixels.open_input(data, LIMITS, ImageInput(SIZE, "inception"), generator(0))


def test_every_second_part_of_maes_is_mirrored() -> None:
    ramp = np.tile(np.arange(WIDTH) / WIDTH * 255, (HEIGHT, 1)).astype(np.uint8)
    data = jpeg(Image.fromarray(np.stack([ramp] * 3, -1)))
    draws = 64
    rising = 0
    for i in range(draws):
        found = pixels.open_input(data, LIMITS, ImageInput(SIZE, "mae"), generator(2, i))
        slope = np.diff(found.astype(np.float64).mean(axis=(0, 2))[::8])
        assert (slope > 0).all() or (slope < 0).all()
        rising += bool((slope > 0).all())
    assert 16 < rising < 48


@pytest.mark.parametrize(("crop", "least"), [("inception", 0.08), ("mae", 0.2)])
def test_a_part_has_the_papers_least_area(crop: str, least: float) -> None:
    boxes = [pixels._box(WIDTH, HEIGHT, ImageInput(SIZE, crop), generator(3, i)) for i in range(200)]
    smallest = min((right - left) * (bottom - top) for left, top, right, bottom in boxes) / (WIDTH * HEIGHT)
    assert least <= smallest < least + 0.1

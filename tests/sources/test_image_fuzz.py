"""Damaged images never give anything but a picture or an `ImageRefused`."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sources.source_files import encoded, picture

from raylab.sources.base import Limits
from raylab.sources.headers import read_header
from raylab.sources.images import ImageRefused, open_image

LIMITS = Limits(max_image_pixels=10**6, max_image_frames=10, min_image_side=1)

EXIF = Image.Exif()
EXIF[0x0112] = 6
FRAMES = [picture(24, 16, seed) for seed in range(3)]
SAMPLES = {
    "jpeg": encoded(FRAMES[0], exif=EXIF),
    "progressive jpeg": encoded(FRAMES[0], progressive=True),
    "cmyk jpeg": encoded(FRAMES[0].convert("CMYK")),
    "png": encoded(FRAMES[0], "PNG", exif=EXIF),
    "palette png": encoded(FRAMES[0].quantize(8), "PNG", transparency=bytes(range(8))),
    "animated png": encoded(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:]),
    "webp": encoded(FRAMES[0], "WEBP", exif=EXIF),
    "lossless webp": encoded(FRAMES[0].convert("RGBA"), "WEBP", lossless=True),
    "animated webp": encoded(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:]),
    "gif": encoded(FRAMES[0], "GIF"),
    "animated gif": encoded(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]),
    "bmp": encoded(FRAMES[0], "BMP"),
    "palette bmp": encoded(FRAMES[0].quantize(8), "BMP"),
}

# where a flip falls: anywhere, or, as likely, in the first 64 bytes, where headers are
POSITIONS = st.one_of(st.integers(0, 63), st.integers(0, 10**6))
DAMAGE = st.one_of(
    st.tuples(st.just("cut"), POSITIONS, st.just(0)),
    st.tuples(st.just("flip"), POSITIONS, st.integers(1, 255)),
    st.tuples(st.just("insert"), POSITIONS, st.integers(0, 255)),
    st.tuples(st.just("drop"), POSITIONS, st.integers(1, 64)),
)


def damaged(data: bytes, steps: list[tuple[str, int, int]]) -> bytes:
    for how, position, value in steps:
        at = position % (len(data) + 1)
        if how == "cut":
            data = data[:at]
        elif how == "flip" and at < len(data):
            data = data[:at] + bytes([data[at] ^ value]) + data[at + 1 :]
        elif how == "insert":
            data = data[:at] + bytes([value]) * 3 + data[at:]
        elif how == "drop":
            data = data[:at] + data[at + value :]
    return data


def opens_or_is_refused(data: bytes, side: int | None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            image = open_image(data, LIMITS, side)
        except ImageRefused as refusal:
            assert refusal.reason.value.startswith("image_")
            assert refusal.detail
            return
    assert image.mode == "RGB"
    assert image.width * image.height <= LIMITS.max_image_pixels


@pytest.mark.parametrize("name", list(SAMPLES))
@settings(max_examples=150, deadline=None)
@given(steps=st.lists(DAMAGE, min_size=1, max_size=3), side=st.sampled_from([None, 4]))
def test_damaged_images_open_or_are_refused(name, steps, side):
    opens_or_is_refused(damaged(SAMPLES[name], steps), side)


@pytest.mark.parametrize("magic", [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP", b"GIF89a", b"BM", b""])
@settings(max_examples=100, deadline=None)
@given(rest=st.binary(max_size=300))
def test_noise_behind_a_signature_is_refused(magic, rest):
    opens_or_is_refused(magic + rest, None)


@pytest.mark.parametrize("name", list(SAMPLES))
def test_the_samples_themselves_open(name):
    header = read_header(SAMPLES[name])
    assert (header.width, header.height) == (24, 16)
    image = open_image(SAMPLES[name], LIMITS)
    assert image.size == ((16, 24) if header.orientation == 6 else (24, 16))

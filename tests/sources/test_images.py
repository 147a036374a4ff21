from __future__ import annotations

import io
import struct
import tracemalloc
import warnings
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin
from sources.source_files import encoded, picture

from raylab.schema import Reason
from raylab.sources.base import Limits
from raylab.sources.images import ImageRefused, open_image

LIMITS = Limits()


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture
def no_decoding(monkeypatch):
    """Any decode fails the test."""

    def load(self):
        raise AssertionError(f"{self.format} was decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)


def refused(data: bytes, limits: Limits = LIMITS, side: int | None = None) -> ImageRefused:
    with pytest.raises(ImageRefused) as caught:
        open_image(data, limits, side)
    return caught.value


def near(image: Image.Image, expected: Image.Image, tolerance: float = 6) -> bool:
    difference = np.abs(np.asarray(image, dtype=float) - np.asarray(expected, dtype=float))
    return image.size == expected.size and difference.mean() < tolerance


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_accepted_formats_give_the_picture_in_rgb(kind):
    original = picture()
    image = open_image(encoded(original, kind), LIMITS)
    assert image.mode == "RGB"
    assert near(image, original, 12 if kind == "GIF" else 6)


@pytest.mark.parametrize("kind", ["TIFF", "AVIF", "ICO", "PPM", "JPEG2000", "TGA", "PDF"])
def test_other_formats_are_refused_unopened(kind, no_decoding):
    assert refused(encoded(picture(), kind)).reason == Reason.IMAGE_FORMAT


@pytest.mark.parametrize(
    "data", [b"<html>404</html>", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"RIFFxxxxWAVEfmt "]
)
def test_what_is_no_image_is_refused(data):
    assert refused(data).reason == Reason.IMAGE_FORMAT


def test_no_bytes_and_too_many_are_refused_first(no_decoding):
    assert refused(b"").reason == Reason.IMAGE_EMPTY
    assert refused(encoded(picture()), replace(LIMITS, max_image_bytes=100)).reason == Reason.IMAGE_TOO_MANY_BYTES


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_the_size_is_read_from_the_header_alone(kind, no_decoding):
    data = encoded(picture(60, 40), kind)
    large = refused(data, replace(LIMITS, max_image_pixels=60 * 40 - 1))
    assert (large.reason, "60 x 40" in large.detail) == (Reason.IMAGE_TOO_MANY_PIXELS, True)
    assert refused(data, replace(LIMITS, min_image_side=41)).reason == Reason.IMAGE_TOO_SMALL


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
@pytest.mark.parametrize("keep", [0.3, 0.6, 0.9])
def test_truncated_files_are_corrupt(kind, keep):
    data = encoded(picture(200, 150), kind)
    assert refused(data[: int(len(data) * keep)]).reason == Reason.IMAGE_CORRUPT


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_a_bare_signature_is_corrupt(kind):
    assert refused(encoded(picture(), kind)[:12]).reason == Reason.IMAGE_CORRUPT


# ---- modes


def test_cmyk_jpeg_becomes_rgb():
    red = Image.new("CMYK", (32, 32), (0, 255, 255, 0))
    assert near(open_image(encoded(red), LIMITS), Image.new("RGB", (32, 32), (255, 0, 0)))


def test_16_bit_grey_is_scaled_and_not_clipped():
    ramp = np.linspace(0, 65535, 64 * 16).reshape(16, 64).astype(np.uint16)
    image = open_image(encoded(Image.fromarray(ramp), "PNG"), LIMITS)
    assert np.array_equal(np.asarray(image)[..., 0], ramp >> 8)


def test_grey_and_bilevel_become_rgb():
    for mode in ("L", "1"):
        image = open_image(encoded(picture().convert(mode), "PNG"), LIMITS)
        assert near(image, picture().convert(mode).convert("RGB"), 1)


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "RGBA"), ("PNG", "LA"), ("WEBP", "RGBA")])
def test_transparent_pixels_become_white(kind, mode):
    image = Image.new(mode, (32, 32), (0,) * len(mode))
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    assert open_image(encoded(image, kind, **options), LIMITS).getpixel((5, 5)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_transparent_palette_entry_becomes_white(kind):
    image = Image.new("P", (32, 32), 1)
    image.putpalette([0, 0, 0, 200, 0, 0])
    image.paste(0, (0, 0, 16, 32))
    opened = open_image(encoded(image, kind, transparency=0), LIMITS)
    assert opened.getpixel((2, 2)) == (255, 255, 255)
    assert opened.getpixel((30, 2)) == (200, 0, 0)


def test_palette_with_transparency_as_bytes_causes_no_warning():
    image = picture().quantize(16)
    opened = open_image(encoded(image, "PNG", transparency=bytes([0] * 8 + [255] * 8)), LIMITS)
    assert opened.mode == "RGB"


# ---- orientation

UPRIGHT = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", list(UPRIGHT))
def test_the_exif_orientation_is_applied(kind, orientation):
    exif = Image.Exif()
    exif[0x010F] = "maker"
    exif[0x0112] = orientation
    how = UPRIGHT[orientation]
    expected = picture() if how is None else picture().transpose(how)
    assert near(open_image(encoded(picture(), kind, exif=exif), LIMITS), expected)


@pytest.mark.parametrize("exif", [b"", b"II*\0", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff", b"junk" * 9])
def test_broken_exif_is_ignored(exif):
    segment = b"\xff\xe1" + struct.pack(">H", 8 + len(exif)) + b"Exif\0\0" + exif
    data = encoded(picture())
    assert near(open_image(data[:2] + segment + data[2:], LIMITS), picture())


# ---- draft


@pytest.mark.parametrize(
    ("size", "side", "expected"),
    [
        ((640, 480), 224, (320, 240)),
        ((640, 480), 240, (320, 240)),
        ((640, 480), 241, (640, 480)),
        ((640, 480), 60, (80, 60)),
        ((480, 640), 100, (120, 160)),
        ((100, 100), 224, (100, 100)),
    ],
)
def test_a_jpeg_is_decoded_at_the_smallest_scale_that_suffices(size, side, expected):
    image = open_image(encoded(picture(*size)), LIMITS, side)
    assert image.size == expected
    assert near(image, picture(*size).resize(expected, Image.Resampling.BOX), 8)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "BMP"])
def test_other_formats_have_no_smaller_scale(kind):
    assert open_image(encoded(picture(64, 64), kind), LIMITS, 16).size == (64, 64)


# ---- animation


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_taken(kind):
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "green", "blue")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert near(open_image(data, LIMITS), frames[0])
    few = refused(data, replace(LIMITS, max_image_frames=2))
    assert (few.reason, few.detail) == (Reason.IMAGE_TOO_MANY_FRAMES, "3 frames, at most 2")


# ---- bombs


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, body: bytes, *extra: bytes, bits: int = 1) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0))
    return b"".join([b"\x89PNG\r\n\x1a\n", head, *extra, chunk(b"IDAT", body), chunk(b"IEND", b"")])


@pytest.fixture(scope="module")
def png_bomb() -> bytes:
    return png(30_000, 30_000, zlib.compress(bytes((30_000 // 8 + 1) * 30_000), 9))


def memory_of_refusal(data: bytes, limits: Limits = LIMITS) -> tuple[ImageRefused, int]:
    tracemalloc.start()
    try:
        refusal = refused(data, limits)
        return refusal, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_png_bomb_is_refused_from_its_header(png_bomb, no_decoding):
    assert len(png_bomb) < 120_000
    refusal, peak = memory_of_refusal(png_bomb)
    assert refusal.reason == Reason.IMAGE_TOO_MANY_PIXELS
    assert peak < 4 * len(png_bomb)


def test_a_webp_bomb_is_refused_from_its_header(no_decoding):
    canvas = (16_000).to_bytes(3, "little")
    body = b"VP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + canvas + canvas
    data = b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body
    assert memory_of_refusal(data)[0].reason == Reason.IMAGE_TOO_MANY_PIXELS


def test_a_gif_whose_frame_is_larger_than_its_screen_is_refused(no_decoding):
    data = b"GIF89a" + struct.pack("<HHBBB", 16, 16, 0, 0, 0) + b"," + struct.pack("<HHHHB", 0, 0, 65_000, 65_000, 0)
    refusal = refused(data + b"\x02\x02L\x01\0;")
    assert (refusal.reason, "65000 x 65000" in refusal.detail) == (Reason.IMAGE_TOO_MANY_PIXELS, True)


def test_a_gif_of_endless_frames_is_refused(no_decoding):
    frame = b"," + struct.pack("<HHHHB", 0, 0, 16, 16, 0) + b"\x02\x02L\x01\0"
    data = b"GIF89a" + struct.pack("<HHBBB", 16, 16, 0, 0, 0) + frame * 5_000 + b";"
    assert refused(data).reason == Reason.IMAGE_TOO_MANY_FRAMES


def test_a_tiff_bomb_is_refused_by_its_format(no_decoding):
    entries = [(256, 4, 1, 60_000), (257, 4, 1, 60_000), (259, 3, 1, 8)]
    directory = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    assert refused(b"II*\0\x08\0\0\0\x03\0" + directory + bytes(4)).reason == Reason.IMAGE_FORMAT


def test_png_text_and_profiles_are_never_inflated():
    bomb = zlib.compress(bytes(50 * 2**20), 9)
    extra = [
        chunk(b"zTXt", b"Comment\0\0" + bomb),
        chunk(b"iTXt", b"Comment\0\1\0\0\0" + bomb),
        chunk(b"iCCP", b"profile\0\0" + bomb),
    ]
    data = png(16, 16, zlib.compress(bytes(17 * 16)), *extra, bits=8)
    tracemalloc.start()
    image = open_image(data, LIMITS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert image.size == (16, 16)
    assert not image.info
    assert peak < 2**20


def test_a_jpeg_of_endless_scans_is_refused(no_decoding):
    data = encoded(picture(), progressive=True)
    start = data.rindex(b"\xff\xda")
    scan = data[start : data.rindex(b"\xff\xd9")]
    refusal = refused(data[:start] + scan * 200 + b"\xff\xd9")
    assert (refusal.reason, "scans" in refusal.detail) == (Reason.IMAGE_CORRUPT, True)


@pytest.mark.parametrize(
    "data",
    [
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 9, 8, 0, 0, 0, 0)) + bytes(12) * 400_000,
        b"\xff\xd8\xff" + b"\xff" * 2**20,
        b"RIFF\0\0\0\0WEBP" + bytes(8) * 400_000,
        b"GIF89a" + bytes(7) + b"!" * 2**20,
        b"GIF89a" + bytes(7) + (b"!\xfe" + b"\x01x" * 1000 + b"\0") * 400,
        b"GIF89a" + bytes(7) + b"?" * 2**20,
    ],
    ids=["png chunks", "jpeg fill bytes", "webp chunks", "gif extensions", "gif sub-blocks", "gif stray bytes"],
)
def test_files_of_endless_blocks_are_refused(data, no_decoding):
    assert refused(data).reason == Reason.IMAGE_CORRUPT


def test_a_header_that_pillow_reads_otherwise_is_corrupt():
    data = bytearray(encoded(picture(32, 32), "BMP"))
    data[22:26] = struct.pack("<i", -32)  # bottom-up: Pillow and the header reader agree
    assert open_image(bytes(data), LIMITS).size == (32, 32)
    data[22:26] = struct.pack("<I", 0xFE000000)
    assert refused(bytes(data)).reason in (Reason.IMAGE_CORRUPT, Reason.IMAGE_TOO_MANY_PIXELS)


def test_more_pixels_than_pillow_likes_are_a_matter_of_our_limits_alone(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for kind in ("JPEG", "PNG", "GIF", "BMP"):
        assert open_image(encoded(picture(), kind), LIMITS).size == (48, 32)


def test_pillow_is_left_as_it_was():
    def settings():
        return Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, PngImagePlugin.MAX_TEXT_CHUNK

    before = settings()
    open_image(encoded(picture()), LIMITS, 16)
    refused(encoded(picture())[:300])
    assert settings() == before


@pytest.mark.parametrize(
    "error", [OSError, SyntaxError, ValueError, EOFError, struct.error, KeyError, MemoryError, AttributeError]
)
def test_whatever_a_decoder_raises_becomes_a_refusal(error, monkeypatch):
    def load(self):
        raise error("inside")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    refusal = refused(encoded(picture()))
    assert refusal.reason == Reason.IMAGE_CORRUPT
    assert error.__name__.rpartition(".")[2] in refusal.detail


def test_the_image_needs_no_open_file():
    image = open_image(encoded(picture()), LIMITS)
    image.convert("L").save(io.BytesIO(), "PNG")
    assert image.copy().size == (48, 32)

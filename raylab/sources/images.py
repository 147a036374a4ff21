"""The one place that opens image bytes from outside.

An image is refused as early and as cheaply as can be: by its number of bytes, its first bytes, then the size and
number of frames that its header tells (`headers`), before any pixel is decoded. What is decoded is the file without
its metadata. No setting of Pillow is changed, and none of its warnings is caused, so that it works beside other users
and in threads.
"""

from __future__ import annotations

import io
import struct

from PIL import BmpImagePlugin, GifImagePlugin, Image, ImageFile, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from raylab.schema import Reason
from raylab.sources.base import Limits
from raylab.sources.headers import Header, read_header

# Called directly: Image.open would try others, and checks sizes against a limit of its own with a warning.
_DECODERS: dict[str, type[ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
}

# EXIF orientation -> what puts the picture upright (CIPA DC-008, tag 0x0112)
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageRefused(Exception):
    """An image that is not used.

    Attributes:
        reason: goes into the row's `reject_reason`.
        detail: the concrete cause.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


def open_image(data: bytes, limits: Limits, side: int | None = None) -> Image.Image:
    """Decode an image from the web, or say why not.

    JPEG, PNG, WebP, GIF and BMP (see `headers` for why these). Of an animation, the first frame. Transparent pixels
    become white; 16 bits a channel, CMYK and palettes become 8-bit RGB; the EXIF orientation is applied.

    Args:
        data: the file's bytes.
        limits: what is accepted.
        side: where only a picture with this short side is needed, a JPEG is decoded at 1/2, 1/4 or 1/8 of its size: at
            the smallest that is not below `side`, which saves most of the work (DCT scaling). The caller still resizes.

    Returns:
        The decoded picture, mode RGB.

    Raises:
        ImageRefused: with a reason, for whatever is wrong with the bytes; nothing else is raised.
    """
    header = _check(data, limits)
    try:
        return _decode(header, side)
    except Image.DecompressionBombError as error:
        raise ImageRefused(Reason.IMAGE_TOO_MANY_PIXELS, str(error)) from error
    except Exception as error:  # Pillow's decoders raise a dozen kinds for bad bytes, from SyntaxError to MemoryError
        raise ImageRefused(Reason.IMAGE_CORRUPT, f"{header.format}: {type(error).__name__}: {error}") from error


def open_indices(data: bytes, limits: Limits) -> Image.Image:
    """Decode a mask: a PNG or other picture whose pixels are numbers, with a palette or in 8-bit grey.

    Args:
        data: the file's bytes.
        limits: what is accepted.

    Returns:
        The numbers, mode L; a palette's colours do not matter.

    Raises:
        ImageRefused: see `open_image`; and for pictures in colours.
    """
    header = _check(data, limits)
    try:
        image = _DECODERS[header.format](io.BytesIO(header.pixels))
        image.load()
    except Exception as error:  # as above
        raise ImageRefused(Reason.IMAGE_CORRUPT, f"{header.format}: {type(error).__name__}: {error}") from error
    if image.mode not in ("L", "P"):
        raise ImageRefused(Reason.IMAGE_FORMAT, f"a mask has 8-bit numbers or a palette, this one is {image.mode}")
    return Image.frombytes("L", image.size, image.tobytes())


def _check(data: bytes, limits: Limits) -> Header:
    """Return the image's header, or refuse the image for what it tells."""
    if not data:
        raise ImageRefused(Reason.IMAGE_EMPTY, "no bytes")
    if len(data) > limits.max_image_bytes:
        raise ImageRefused(Reason.IMAGE_TOO_MANY_BYTES, f"{len(data)} bytes, at most {limits.max_image_bytes}")
    try:
        header = read_header(data)
    except (ValueError, struct.error, IndexError) as error:
        raise ImageRefused(Reason.IMAGE_CORRUPT, f"header: {error}") from error
    if header is None:
        raise ImageRefused(Reason.IMAGE_FORMAT, f"starts with {data[:12]!r}, not one of {', '.join(_DECODERS)}")
    _check_size(header, limits)
    return header


def _check_size(header: Header, limits: Limits) -> None:
    width, height = header.width, header.height
    if width <= 0 or height <= 0:
        raise ImageRefused(Reason.IMAGE_CORRUPT, f"{header.format} of {width} x {height} pixels")
    if width * height > limits.max_image_pixels:
        detail = f"{width} x {height} pixels, at most {limits.max_image_pixels}"
        raise ImageRefused(Reason.IMAGE_TOO_MANY_PIXELS, detail)
    if min(width, height) < limits.min_image_side:
        raise ImageRefused(
            Reason.IMAGE_TOO_SMALL, f"{width} x {height} pixels, at least {limits.min_image_side} a side"
        )
    if header.frames > limits.max_image_frames:
        detail = f"{header.frames} frames, at most {limits.max_image_frames}"
        raise ImageRefused(Reason.IMAGE_TOO_MANY_FRAMES, detail)


def _decode(header: Header, side: int | None) -> Image.Image:
    image = _DECODERS[header.format](io.BytesIO(header.pixels))
    if image.size != (header.width, header.height):
        raise ValueError(f"{header.width} x {header.height} in the header, {image.size} for the decoder")
    if side is not None and header.format == "JPEG":
        image.draft(None, (side, side))
    image.load()
    upright = _to_rgb(image)
    return upright.transpose(_UPRIGHT[header.orientation]) if header.orientation in _UPRIGHT else upright


def _to_rgb(image: Image.Image) -> Image.Image:
    """Return `image` as RGB, transparent parts on white, 16-bit grey by its upper byte (Pillow would clip it)."""
    if image.mode.startswith("I"):
        import numpy as np

        values = np.asarray(image).astype(np.int64) >> 8
        return Image.fromarray(values.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image)
        return white
    return image if image.mode == "RGB" else image.convert("RGB")

"""What an image file says of itself before anything is decoded, and the same file without its metadata.

Headers are read here and not by Pillow because opening a file with Pillow already does work that a hostile file
decides on: it inflates a PNG's text chunks and colour profile, allocates the canvas of an animated WebP, parses EXIF
and warns about all of it. What these functions return as `Header.pixels` holds nothing of that: only what is needed
to decode the (first) picture. Each reads a bounded number of blocks and raises `ValueError` (or what `struct` and
indexing raise) for a broken file.

Formats: those that every browser shows and web crawls are full of. TIFF is left out (no browser shows it, and its tag
tree names any of a dozen codecs), as are AVIF and HEIC (rare among web pairs, and no header to trust before their
decoder runs) and SVG (a program rather than a picture).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

MAX_BLOCKS = 300_000
"""Chunks, segments or sub-blocks in one file: 64 MiB of GIF in its usual 255-byte blocks stay below."""

MAX_JPEG_SCANS = 100
"""A progressive JPEG has around 10; each costs a pass over all its coefficients, whatever its own size."""

MAX_EXIF_TAGS = 256
"""Tags of an EXIF block that are looked at for the orientation."""


@dataclass(frozen=True)
class Header:
    """What is known of an image before decoding."""

    format: str
    """Pillow's name: JPEG, PNG, WEBP, GIF or BMP."""
    width: int
    """Pixels, as stored: before the EXIF orientation is applied."""
    height: int
    frames: int
    orientation: int
    """EXIF orientation, 1..8; 1 where there is none."""
    pixels: bytes
    """The file without text, colour profile, EXIF, thumbnails and later frames of an APNG."""


def read_header(data: bytes) -> Header | None:
    """Return the header of an image, or None where its first bytes are of no accepted format.

    Raises:
        ValueError, struct.error, IndexError: the header is broken.
    """
    for magic, reader in _READERS:
        if data.startswith(magic) and (magic != b"RIFF" or data[8:12] == b"WEBP"):
            return reader(data)
    return None


def _read_png(data: bytes) -> Header:
    """W3C PNG, third edition: signature, then chunks of (length, type, data, CRC)."""
    if data[12:16] != b"IHDR":
        raise ValueError("no IHDR")
    width, height = struct.unpack_from(">II", data, 16)
    kept, frames, orientation, position = [data[:33]], 1, 1, 33
    for _ in range(MAX_BLOCKS):
        if position >= len(data):
            break
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if kind in (b"PLTE", b"IDAT", b"IEND", b"tRNS"):
            kept.append(data[position:end])
        elif kind == b"acTL":
            frames = struct.unpack_from(">I", data, position + 8)[0]
        elif kind == b"eXIf":
            orientation = _exif_orientation(data[position + 8 : position + 8 + length])
        position = end
        if kind == b"IEND":
            break
    else:
        raise ValueError(f"more than {MAX_BLOCKS} chunks")
    return Header("PNG", width, height, frames, orientation, b"".join(kept))


def _read_jpeg(data: bytes) -> Header:
    """ITU T.81 annex B: segments of (marker, length, data) up to the first scan."""
    kept, orientation, size, position, frame = [data[:2]], 1, (0, 0), 2, b""
    for _ in range(MAX_BLOCKS):
        if data[position] != 0xFF:
            raise ValueError(f"no marker at byte {position}")
        marker = data[position + 1]
        if marker in _NO_LENGTH:
            position += 1 if marker == 0xFF else 2
            continue
        end = position + 2 + struct.unpack_from(">H", data, position + 2)[0]
        segment = data[position:end]
        if marker in _SOF:
            if frame:
                raise ValueError("two frame headers")
            frame = segment
            height, width = struct.unpack_from(">HH", segment, 5)
            size = (width, height)
        if marker == 0xE1 and segment[4:10] == b"Exif\0\0":
            orientation = _exif_orientation(segment[10:])
        if marker == 0xDA:
            break
        # colours hang on JFIF (APP0) and Adobe (APP14); the other APPn and comments are metadata
        if not 0xE0 <= marker <= 0xFE or marker == 0xEE or segment[4:9] == b"JFIF\0":
            kept.append(segment)
        position = end
    else:
        raise ValueError(f"more than {MAX_BLOCKS} segments")
    if frame[1] in _PROGRESSIVE or segment[4] < frame[9]:  # else libjpeg reads this scan alone, with all components
        _check_scans(data, position)
    return Header("JPEG", *size, 1, orientation, b"".join(kept) + data[position:])


def _check_scans(data: bytes, start: int) -> None:
    """Raise `ValueError` for more scans from `start` to the end of the image than any encoder makes."""
    end = data.find(b"\xff\xd9", start)
    scans = data.count(b"\xff\xda", start, end if end > 0 else len(data))
    if scans > MAX_JPEG_SCANS:
        raise ValueError(f"{scans} scans, at most {MAX_JPEG_SCANS}")


_NO_LENGTH = frozenset({0x01, 0xFF, *range(0xD0, 0xD8)})
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})


def _read_webp(data: bytes) -> Header:
    """RFC 9649: a RIFF container of (type, length, data, padding)."""
    size, frames, orientation, position = (0, 0), 0, 1, 12
    for _ in range(MAX_BLOCKS):
        if position + 8 > len(data):
            break
        kind, length = struct.unpack_from("<4sI", data, position)
        body = position + 8
        if kind == b"VP8X":
            wide, high = data[body + 4 : body + 7], data[body + 7 : body + 10]
            size = (int.from_bytes(wide, "little") + 1, int.from_bytes(high, "little") + 1)
        elif kind == b"VP8 " and size == (0, 0):
            width, height = struct.unpack_from("<HH", data, body + 6)
            size = (width & 0x3FFF, height & 0x3FFF)
        elif kind == b"VP8L" and size == (0, 0):
            bits = struct.unpack_from("<I", data, body + 1)[0]
            size = ((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
        elif kind == b"ANMF":
            frames += 1
        elif kind == b"EXIF":
            exif = data[body : body + length]
            orientation = _exif_orientation(exif.removeprefix(b"Exif\0\0"))
        position = body + length + (length & 1)
    else:
        raise ValueError(f"more than {MAX_BLOCKS} chunks")
    return Header("WEBP", *size, max(frames, 1), orientation, data)


def _read_gif(data: bytes) -> Header:
    """GIF89a: screen, colour table, then images and extensions, each followed by a chain of sub-blocks."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    position, frames, in_chain = 13 + _colour_table(flags), 0, False
    for _ in range(MAX_BLOCKS):
        if position >= len(data) or (data[position] == 0x3B and not in_chain):
            break
        if in_chain:
            in_chain = data[position] > 0
            position += 1 + data[position]
        elif data[position] == 0x2C:
            left, top, wide, high, flags = struct.unpack_from("<HHHHB", data, position + 1)
            if not frames:  # the first image may be larger than the screen
                width, height = max(width, left + wide), max(height, top + high)
            frames, in_chain = frames + 1, True
            position += 11 + _colour_table(flags)
        elif data[position] == 0x21:
            in_chain = True
            position += 2
        else:
            position += 1  # decoders pass over stray bytes
    else:
        raise ValueError(f"more than {MAX_BLOCKS} blocks")
    # with the final size in place, Pillow has no reason to widen the screen and to warn about it
    return Header("GIF", width, height, frames, 1, data[:6] + struct.pack("<HH", width, height) + data[10:])


def _colour_table(flags: int) -> int:
    """Return the bytes of the colour table that `flags` announces."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _read_bmp(data: bytes) -> Header:
    """Windows bitmap: the second header starts with its own length and tells the size."""
    if struct.unpack_from("<I", data, 14)[0] == 12:
        width, height = struct.unpack_from("<HH", data, 18)
    else:
        width, height = struct.unpack_from("<ii", data, 18)
    return Header("BMP", width, abs(height), 1, 1, data)


def _exif_orientation(tiff: bytes) -> int:
    """Return tag 0x0112 of an EXIF block's first directory, 1 where there is none (CIPA DC-008)."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    try:
        if order is None:
            return 1
        start = struct.unpack_from(order + "I", tiff, 4)[0]
        count = struct.unpack_from(order + "H", tiff, start)[0]
        for index in range(min(count, MAX_EXIF_TAGS)):
            tag, _, _, value = struct.unpack_from(order + "HHIH", tiff, start + 2 + 12 * index)
            if tag == 0x0112:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        return 1  # a broken EXIF block does not make the picture worse
    return 1


_READERS: tuple[tuple[bytes, Callable[[bytes], Header]], ...] = (
    (b"\xff\xd8\xff", _read_jpeg),
    (b"\x89PNG\r\n\x1a\n", _read_png),
    (b"RIFF", _read_webp),
    (b"GIF87a", _read_gif),
    (b"GIF89a", _read_gif),
    (b"BM", _read_bmp),
)

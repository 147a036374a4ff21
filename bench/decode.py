"""What reading images costs: `open_image` for a 224-pixel model against a full Pillow decode; refusal of a bomb.

    .venv/bin/python bench/decode.py

Both sides end with the same picture size (short side 224, bicubic), and the JPEGs are 640 x 480 of quality 85: web
photos of at least that size, fitted, where ../shared/data has them, else drawn ones. Times are CPU seconds of one
thread; rounds alternate which side goes first.
`ratio` is the median over rounds of Pillow's time over ours; `ratio_decode` is the same without the resizing.
Asked for: ratio 1.8 or more; a 30,000 x 30,000 PNG of 109 KB refused in under 50 ms without memory.
"""

from __future__ import annotations

import io
import json
import os
import platform
import resource
import struct
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import PIL
from PIL import Image, ImageOps, features

from raylab.sources import Limits, SourceConfig, open_source
from raylab.sources.images import ImageRefused, open_image

SIDE, ROUNDS, IMAGES, REPEATS = 224, 15, 12, 10
LIMITS = Limits()
CC12M = Path(__file__).parents[1].parent / "shared" / "data" / "cc12m_32"


def main() -> None:
    """Refuse the bomb first, while memory is at rest, then decode; print the JSON last."""
    bomb = measure_bomb()
    images, origin = jpegs()
    print(f"{len(images)} JPEGs of 640 x 480, {origin}, {median(map(len, images)) / 1024:.0f} KiB", file=sys.stderr)
    sides: dict[str, Callable[[bytes], Image.Image]] = {
        "pillow": lambda data: resized(full(data)),
        "raylab": lambda data: resized(open_image(data, LIMITS, SIDE)),
        "pillow_decode": full,
        "raylab_decode": lambda data: open_image(data, LIMITS, SIDE),
    }
    rounds = [one_round(sides, images, flip=bool(index % 2)) for index in range(ROUNDS)]
    ratio = median(r["pillow"] / r["raylab"] for r in rounds)
    ratio_decode = median(r["pillow_decode"] / r["raylab_decode"] for r in rounds)
    difference = max(mean_difference(sides["pillow"](data), sides["raylab"](data)) for data in images)
    for name in sides:
        print(f"{name:14s} {median(r[name] for r in rounds):6.2f} ms/image (median)", file=sys.stderr)
    print(f"ratio {ratio:.2f} with resizing, {ratio_decode:.2f} decoding alone", file=sys.stderr)
    print(f"largest mean difference of a picture: {difference:.2f} of 255", file=sys.stderr)
    where = {"cpus": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    libraries = {"pillow": PIL.__version__, "libjpeg_turbo": features.version_feature("libjpeg_turbo")}
    figures = {"ratio": ratio, "ratio_decode": ratio_decode, "largest_mean_difference": difference, "bomb": bomb}
    print(json.dumps({**figures, "jpegs": origin, "images": len(images), **where, **libraries, "rounds": rounds}))


def one_round(sides: dict[str, Callable[[bytes], Image.Image]], images: list[bytes], *, flip: bool) -> dict[str, float]:
    """Return CPU milliseconds an image for each side."""
    result = {}
    for name in reversed(sides) if flip else sides:
        started = time.process_time()
        for _ in range(REPEATS):
            for data in images:
                sides[name](data)
        result[name] = 1000 * (time.process_time() - started) / len(images) / REPEATS
    return result


def full(data: bytes) -> Image.Image:
    """The usual way: every pixel decoded."""
    return Image.open(io.BytesIO(data)).convert("RGB")


def resized(image: Image.Image) -> Image.Image:
    """Short side 224, as a CLIP's preprocessing does it."""
    scale = SIDE / min(image.size)
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)


def mean_difference(one: Image.Image, other: Image.Image) -> float:
    """Mean absolute difference of two pictures, in steps of 255."""
    return float(np.abs(np.asarray(one, dtype=float) - np.asarray(other, dtype=float)).mean())


def jpegs() -> tuple[list[bytes], str]:
    """Return JPEGs of 640 x 480 and where they are from."""
    if not CC12M.is_dir():
        return [encoded(drawn(seed)) for seed in range(IMAGES)], "drawn"
    source = open_source(SourceConfig(str(CC12M)))
    refs = [ref for shard in source.shards() for table in source.read(shard) for ref in table["image"].to_pylist()]
    photos = [open_image(data, LIMITS) for data in source.image_bytes(refs) if isinstance(data, bytes)]
    large = [photo for photo in photos if photo.width >= 640 and photo.height >= 480]
    return [encoded(ImageOps.fit(photo, (640, 480), Image.Resampling.LANCZOS)) for photo in large], "cc12m_32, fitted"


def encoded(image: Image.Image) -> bytes:
    """Return `image` as a JPEG of quality 85."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def drawn(seed: int) -> Image.Image:
    """A 640 x 480 picture with the spectrum of photos: amplitude falls with frequency."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(640), np.fft.fftfreq(480)))
    pixels = np.fft.ifft2(np.fft.fft2(rng.normal(size=(480, 640))) / np.maximum(frequency, 1 / 640) ** 1.5).real
    pixels = 128 + 50 * (pixels - pixels.mean()) / pixels.std()
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).convert("RGB")


def measure_bomb() -> dict[str, float]:
    """Return what refusing a 30,000 x 30,000 one-bit PNG costs."""
    data = bomb()
    milliseconds = []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(20):
        started = time.perf_counter()
        try:
            open_image(data, LIMITS, SIDE)
        except ImageRefused:
            milliseconds.append(1000 * (time.perf_counter() - started))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(
        f"bomb of {len(data)} bytes: first {milliseconds[0]:.2f} ms, median {median(milliseconds):.2f} ms, ",
        end="",
        file=sys.stderr,
    )
    print(f"peak memory grown by {grown} KiB", file=sys.stderr)
    return {"bytes": len(data), "first_ms": milliseconds[0], "median_ms": median(milliseconds), "grown_kib": grown}


def bomb() -> bytes:
    """A valid PNG of 30,000 x 30,000 black pixels, 1 bit each, made row by row."""
    pixels = zlib.compressobj(9)
    body = b"".join(pixels.compress(bytes(3751)) for _ in range(30_000)) + pixels.flush()

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


if __name__ == "__main__":
    main()

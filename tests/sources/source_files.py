"""Small files of every format that the sources read, made in code."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def picture(width: int = 48, height: int = 32, seed: int = 0) -> Image.Image:
    """Return a smooth picture with some noise, RGB."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = [128 + 100 * np.sin(x / (5 + 3 * k) + y / (7 + k) + seed) for k in range(3)]
    pixels = np.stack(waves, axis=-1) + rng.normal(0, 4, (height, width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    """Return `image` in Pillow's format `kind`."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(seed: int = 0) -> bytes:
    return encoded(picture(seed=seed))


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    """Write a tar with these members in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def pair_members(key: str, caption: str, seed: int = 0, **fields: object) -> list[tuple[str, bytes]]:
    """Return the members that img2dataset writes for one pair."""
    row = {"caption": caption, "url": f"https://example.org/{key}.jpg", "key": key, "license": "CC0"} | fields
    return [
        (f"{key}.jpg", jpeg(seed)),
        (f"{key}.json", json.dumps(row).encode()),
        (f"{key}.txt", caption.encode()),
    ]


def write_parquet(path: Path, columns: Mapping[str, object], **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(dict(columns)), path, **options)
    return path


def write_images(folder: Path, count: int) -> list[str]:
    """Write `count` JPEGs below ``folder/images`` and return their paths relative to `folder`."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    names = [f"images/{index:03d}.jpg" for index in range(count)]
    for index, name in enumerate(names):
        (folder / name).write_bytes(jpeg(index))
    return names


def write_jsonl(path: Path, rows: Iterable[Mapping[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_csv(path: Path, header: list[str], rows: Iterable[Iterable[object]], delimiter: str = ",") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def read_all(source, shard=None) -> list[dict]:
    """Return all rows of a source, or of one of its shards."""
    shards = source.shards() if shard is None else [shard]
    return [row for piece in shards for table in source.read(piece) for row in table.to_pylist()]


def reasons(rows: Iterable[Mapping[str, object]]) -> dict[str, object]:
    """Return key -> reject reason."""
    return {str(row["key"]): row["reject_reason"] for row in rows}

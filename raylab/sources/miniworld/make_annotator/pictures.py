"""Pictures of worlds, painted once into a file that is mapped into memory."""

from __future__ import annotations

import io
import multiprocessing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from raylab.sources.miniworld.samples import Sample, picture, sample
from raylab.sources.miniworld.scene import SIZE
from raylab.sources.miniworld.source import JPEG_QUALITY

_TASK_ROWS = 250


@dataclass(frozen=True)
class Album:
    """Painted rows."""

    pixels: np.ndarray
    """(N, SIZE, SIZE, 3) uint8, mapped from a file."""
    rows: list[Sample]
    """What each picture is of: N rows."""


def _paint(task: tuple[str, tuple[int, ...], int, list[Sample]]) -> None:
    path, shape, offset, rows = task
    pixels = np.memmap(path, np.uint8, "r+", shape=shape)
    for i, row in enumerate(rows):
        pixels[offset + i] = np.asarray(as_read(picture(row)))


def as_read(image: Image.Image) -> Image.Image:
    """Return a picture as the source's readers get it, through JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return Image.open(buffer).convert("RGB")


def paint(path: Path, first_seed: int, worlds: int, rows_per_world: int, processes: int) -> Album:
    """Paint rows 0 .. rows_per_world of each world into `path`, unless a file of that name is there already."""
    rows = [sample(first_seed + world, i) for world in range(worlds) for i in range(rows_per_world)]
    shape = (len(rows), SIZE, SIZE, 3)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        np.memmap(unfinished, np.uint8, "w+", shape=shape).flush()
        tasks = [
            (str(unfinished), shape, start, rows[start : start + _TASK_ROWS])
            for start in range(0, len(rows), _TASK_ROWS)
        ]
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            for _ in pool.imap_unordered(_paint, tasks):
                pass
        unfinished.rename(path)
    return Album(np.memmap(path, np.uint8, "r", shape=shape), rows)

"""Batches of pictures and masks: which, and in what order, follows from the seed and the step alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby

import numpy as np

from raylab.dense.pixels import training_view, whole_view
from raylab.dense.plan import PixelsConfig
from raylab.sources.segmentation import MaskedImages
from raylab.tasks.base import Arrays
from raylab.train.order import generator
from raylab.train.reader import REPLACED

AHEAD = 4
"""Batches that are made while the network computes."""


def row_at(position: int, rows: int, seed: int) -> int:
    """Return which row comes at a position of a run that sees all rows, shuffled anew, again and again."""
    epoch, place = divmod(position, rows)
    return int(generator(seed, epoch).permutation(rows)[place])


def rows_at(positions: range, rows: int, seed: int) -> list[int]:
    """Return `row_at` of many positions; an epoch is shuffled once."""
    found: list[int] = []
    for epoch, places in groupby(positions, lambda position: position // rows):
        order = generator(seed, epoch).permutation(rows)
        found += [int(order[position % rows]) for position in places]
    return found


def training_batches(
    images: MaskedImages, pixels: PixelsConfig, *, batch: int, seed: int, steps: range, readers: int
) -> Iterator[Arrays]:
    """Yield ``image_BHWC`` (uint8) and ``mask_BHW`` (uint8) of each step.

    Args:
        images: to learn from.
        pixels: how they are seen.
        batch: pictures of a step.
        seed: of the run.
        steps: which.
        readers: threads that open pictures.

    Raises:
        RaylabError: a picture cannot be had.
    """
    with ThreadPoolExecutor(readers) as pool:
        waiting: deque[list[Future]] = deque()

        def view(position: int, row: int) -> tuple[np.ndarray, np.ndarray]:
            return training_view(*images[row], pixels, generator(seed, position, 1))

        for step in steps:
            positions = range(step * batch, (step + 1) * batch)
            rows = rows_at(positions, len(images), seed)
            waiting.append([pool.submit(view, *one) for one in zip(positions, rows)])
            if len(waiting) > AHEAD:
                yield _joined(waiting.popleft())
        while waiting:
            yield _joined(waiting.popleft())


def _joined(futures: list[Future]) -> Arrays:
    views = [future.result() for future in futures]
    return {
        "image_BHWC": np.stack([image for image, _ in views]),
        "mask_BHW": np.stack([mask for _, mask in views]),
        REPLACED: np.zeros(len(views), np.uint8),
    }


def whole_batches(images: MaskedImages, pixels: PixelsConfig, batch: int) -> Iterator[Arrays]:
    """Yield all pictures as in evaluation, in their order; neighbours of one size together, `batch` at the most."""
    held: list[tuple[np.ndarray, np.ndarray]] = []
    for index in range(len(images)):
        image, mask_HW = images[index]
        view = whole_view(image, pixels), mask_HW
        if held and (len(held) == batch or [one.shape for one in held[0]] != [one.shape for one in view]):
            yield _stacked(held)
            held = []
        held.append(view)
    if held:
        yield _stacked(held)


def _stacked(held: list[tuple[np.ndarray, np.ndarray]]) -> Arrays:
    return {"image_BHWC": np.stack([one for one, _ in held]), "mask_BHW": np.stack([one for _, one in held])}

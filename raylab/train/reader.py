"""From positions in the order to arrays: rows of the label store, their pictures cropped, the task's columns."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa

from raylab.errors import RaylabError
from raylab.schema import Reason
from raylab.sources import open_source
from raylab.sources.base import SourceConfig
from raylab.sources.images import ImageRefused
from raylab.storage import Folder
from raylab.tasks.base import Collator
from raylab.train.batch import to_table
from raylab.train.examples import group_numbers, held_out, read_part
from raylab.train.order import Order, Piece, Share, Window
from raylab.train.pixels import check, open_input

CHUNK_ROWS = 64
"""Rows whose pictures are in memory at once."""
STAND_INS = 64
"""A run ends where so many pictures in a row cannot be opened."""
REPLACED = "replaced"
"""A batch's column: the row stands in for one whose picture could not be opened."""


@dataclass(frozen=True)
class HeldOut:
    """Which rows of a label store are meant."""

    share: float
    """Of the rows that are held out."""
    held: bool = False
    """Those, instead of the others."""
    mix: tuple[str, ...] = ()
    """How the others are grouped: see `examples.group_numbers`."""


class Reader:
    """Reads the rows of steps. Cheap to pickle: connects and loads where it is used.

    Args:
        labels: URI of the label store.
        source: how its pictures are read.
        collator: the task's half.
        order: of the run's rows.
        share: this worker's part of each batch.
        rows: which rows the order is of.

    Raises:
        RaylabError: the crop is not known.
    """

    def __init__(
        self, labels: str, source: SourceConfig, collator: Collator, order: Order, *, share: Share, rows: HeldOut
    ) -> None:
        self.labels, self.source, self.collator, self.order, self.share = labels, source, collator, order, share
        self.rows = rows
        check(collator.image)
        self._windows: dict[int, tuple[Window, pa.Table]] = {}
        self._pictures = open_source(source)

    def read(self, steps: range) -> Iterator[pa.Table]:
        """Yield this worker's rows of some steps, in order, as `batch.to_table` makes them.

        Raises:
            RaylabError: the label store changed, or too many pictures in a row cannot be opened.
        """
        for piece in self.order.pieces(steps):
            yield from self._piece(piece)

    def _piece(self, piece: Piece) -> Iterator[pa.Table]:
        window = piece.window
        position = np.arange(piece.start, piece.stop)
        place = position[self.share.of(self.order).mine(position)] - window.start
        order = window.shuffled(self.order.seed)
        for at in range(0, len(place), CHUNK_ROWS):
            yield self._chunk(window, order, place[at : at + CHUNK_ROWS])

    def _chunk(self, window: Window, order: np.ndarray, place: np.ndarray) -> pa.Table:
        """Return the arrays of the rows at some places of a window; `order`: see `Window.shuffled`."""
        rows = self._rows(window)
        draws = [window.draw(self.order.seed, window.start + int(at)) for at in place]
        images = self._images(rows.take(pa.array(order[place])), draws)
        shown = self._stand_in(window, order, place, images)
        arrays = self.collator(rows.take(pa.array(order[shown])), draws)
        arrays["image_BHWC"] = np.stack(images)
        arrays[REPLACED] = (shown != place).astype(np.uint8)
        return to_table(arrays)

    def _stand_in(
        self, window: Window, order: np.ndarray, place: np.ndarray, images: list[np.ndarray | str]
    ) -> np.ndarray:
        """Fill in pictures that could not be opened by those of the places behind them, going round the window.

        So what stands in depends on the window alone, not on how its rows are shared.

        Returns:
            int64 [n]: the place whose row each one shows.

        Raises:
            RaylabError: `STAND_INS` places in a row have no picture.
        """
        shown, rows = place.copy(), self._rows(window)
        bad = {int(at): image for at, image in zip(place, images) if isinstance(image, str)}
        for step in range(1, min(STAND_INS, window.rows - 1) + 1):
            missing = [i for i, image in enumerate(images) if isinstance(image, str)]
            shown[missing] = (place[missing] + step) % window.rows
            tried = [i for i in missing if int(shown[i]) not in bad]
            if not tried:
                continue
            draws = [window.draw(self.order.seed, window.start + int(place[i])) for i in tried]
            for i, image in zip(tried, self._images(rows.take(pa.array(order[shown[tried]])), draws)):
                images[i] = image
                if isinstance(image, str):
                    bad[int(shown[i])] = image
        if missing := [i for i, image in enumerate(images) if isinstance(image, str)]:
            first = int(place[missing[0]])
            raise RaylabError(
                f"None of {len(bad)} pictures in a row could be opened; of row "
                f"{rows['row_id'][int(order[first])].as_py()}: {bad[first]}. "
                "Are they where the label store says (--source)?"
            )
        return shown

    def _images(self, rows: pa.Table, draws: list[np.random.Generator]) -> list[np.ndarray | str]:
        """Return each picture as the network takes it, or why it cannot be had."""
        data = self._pictures.image_bytes(rows["image"].to_pylist())
        return [self._image(one, draw) for one, draw in zip(data, draws)]

    def _image(self, data: bytes | Reason, draw: np.random.Generator) -> np.ndarray | str:
        if isinstance(data, Reason):
            return data.value
        try:
            return open_input(data, self.source.limits, self.collator.image, draw)
        except ImageRefused as refused:
            return str(refused)

    def _rows(self, window: Window) -> pa.Table:
        """Return the usable rows of a window's parts, joined; each group's last one is kept: its next piece follows."""
        if window.group not in self._windows or self._windows[window.group][0] != window:
            self._windows[window.group] = window, self._load(window)
        return self._windows[window.group][1]

    def _load(self, window: Window) -> pa.Table:
        folder = Folder(self.labels)
        tables = []
        for part in window.parts:
            rows, _ = read_part(folder, part.name, self.collator)
            chosen = held_out(rows, self.rows.share) == self.rows.held
            rows = rows.filter(pa.array(chosen & (group_numbers(rows, self.rows.mix) == part.group)))
            if rows.num_rows != part.rows:
                raise RaylabError(
                    f"{self.labels}/{part.name} has {rows.num_rows} usable rows, and had {part.rows} when the run "
                    "began: start it again in another --out."
                )
            tables.append(rows)
        return pa.concat_tables(tables).combine_chunks()


def read(pickled: bytes, steps: range) -> Iterator[pa.Table]:
    """Read the rows of some steps by a pickled `Reader`: what it loads is kept for the next call in this process."""
    yield from _unpickled(pickled).read(steps)


@lru_cache(maxsize=2)
def _unpickled(pickled: bytes) -> Reader:
    return pickle.loads(pickled)

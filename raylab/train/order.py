"""In which order a run sees its rows: by seed and epoch alone, whoever reads them and however often it is begun again.

The rows lie in *parts* (files of the label store). An epoch shuffles the parts, joins neighbours to *windows* of some
ten thousand rows, and shuffles the rows of each window: so a reader needs one window in memory and no more. A row's
*position* in that order says which batch it is in, and which worker's share of it: any number of workers sees the same
batches, and a run that goes on begins at the position where it stopped.

Rows may be of several *groups* that are to be seen equally often, whatever their numbers (OVEN's entity and query
questions). Then each group has an order of its own, with epochs of its own length, and each batch takes as many rows of
each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Part:
    """A file of rows."""

    name: str
    """Below the label store's folder."""
    rows: int
    """Usable ones."""
    group: int = 0
    """The rows are those of this group; a file may hold rows of several."""


@dataclass(frozen=True)
class Window:
    """Rows that are shuffled together."""

    epoch: int
    number: int
    """In its epoch."""
    start: int
    """Position of its first row in the epoch."""
    parts: tuple[Part, ...]

    @property
    def rows(self) -> int:
        """Usable rows."""
        return sum(part.rows for part in self.parts)

    @property
    def group(self) -> int:
        """Of all its parts."""
        return self.parts[0].group

    def shuffled(self, seed: int) -> np.ndarray:
        """Return int64 [rows]: which row of the joined parts comes at each of the window's positions."""
        return generator(seed, self.epoch, self.number, self.group).permutation(self.rows)

    def draw(self, seed: int, position: int) -> np.random.Generator:
        """Return the generator of what is random in the row at a position of the epoch."""
        return generator(seed, self.epoch, position, self.group)


def generator(*key: int) -> np.random.Generator:
    """Return a generator that depends on `key` alone; zeros at its end do not count, as numpy has it."""
    return np.random.default_rng(list(key))


def windows(parts: Sequence[Part], seed: int, epoch: int, window_rows: int) -> list[Window]:
    """Return an epoch's windows: shuffled parts, joined until they hold at least `window_rows` rows."""
    order = generator(seed, epoch, 0, parts[0].group).permutation(len(parts))
    found: list[Window] = []
    start, held = 0, list[Part]()
    for at, index in enumerate(order):
        held.append(parts[index])
        rows = sum(part.rows for part in held)
        if rows >= window_rows or at == len(order) - 1:
            found.append(Window(epoch, len(found), start, tuple(held)))
            start, held = start + rows, []
    return found


@dataclass(frozen=True)
class Share:
    """Which rows of each batch a worker gets: a run of them.

    Args:
        batch: rows of a batch over all workers.
        rank: the worker's number.
        world: the number of workers.
    """

    batch: int
    rank: int
    world: int

    @property
    def rows(self) -> int:
        """Of one batch."""
        return self.batch // self.world

    def of(self, order: Order) -> Share:
        """Return the same of each group's part of a batch."""
        return replace(self, batch=self.batch // len(order.groups))

    def mine(self, position: np.ndarray) -> np.ndarray:
        """Return bool [n]: rows at these positions of an epoch that are this worker's."""
        return position % self.batch // self.rows == self.rank


@dataclass(frozen=True)
class Piece:
    """Neighbouring positions of a window."""

    window: Window
    start: int
    """Position in the epoch."""
    stop: int


@dataclass(frozen=True)
class Order:
    """The order of a run's rows.

    Args:
        parts: the usable rows.
        seed: of the run.
        window_rows: see `windows`.
        batch: rows of a batch over all workers; a multiple of the number of groups.
    """

    parts: tuple[Part, ...]
    seed: int
    window_rows: int
    batch: int

    @property
    def groups(self) -> tuple[Order, ...]:
        """The order of each group, by its part of each batch."""
        numbers = sorted({part.group for part in self.parts})
        mine = [tuple(part for part in self.parts if part.group == number) for number in numbers]
        return tuple(replace(self, parts=parts, batch=self.batch // len(numbers)) for parts in mine)

    @property
    def batches_per_epoch(self) -> int:
        """Whole batches; what is left over waits for the next epoch's shuffle. Of the rows of one group."""
        return sum(part.rows for part in self.parts) // self.batch

    def pieces(self, steps: range) -> Iterator[Piece]:
        """Yield where the rows of some steps are, in order; with groups, those of each step group by group."""
        groups = self.groups
        if len(groups) == 1:
            yield from self._pieces(steps)
            return
        for step in steps:
            for group in groups:
                yield from group._pieces(range(step, step + 1))

    def _pieces(self, steps: range) -> Iterator[Piece]:
        step = steps.start
        while step < steps.stop:
            epoch, offset = divmod(step, self.batches_per_epoch)
            last = min(self.batches_per_epoch, offset + steps.stop - step)
            for window in windows(self.parts, self.seed, epoch, self.window_rows):
                start = max(offset * self.batch, window.start)
                stop = min(last * self.batch, window.start + window.rows)
                if start < stop:
                    yield Piece(window, start, stop)
            step += last - offset

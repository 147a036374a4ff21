"""Which cell is tried next, and which go on: random sampling, uniform and near the best (arXiv 1809.04184)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from raylab.dense.search_plan import SamplerConfig
from raylab.errors import RaylabError
from raylab.models.cell_space import Cell, near, uniform
from raylab.train.order import generator

TRIES = 1000
"""Draws of a cell that was not tried yet."""


class Sampler:
    """Draws cells, none twice.

    Args:
        config: how.
        branches: of a cell.
        seed: of the search. A cell follows from it, its number, and what is known when it is drawn.
    """

    def __init__(self, config: SamplerConfig, branches: int, seed: int) -> None:
        self._config, self._branches, self._seed = config, branches, seed
        self._drawn: set[Cell] = set()
        self._scores: dict[Cell, float] = {}

    def note(self, cell: Cell, score: float | None = None) -> None:
        """Take a cell that was drawn before, with its score where it was trained to its end."""
        self._drawn.add(cell)
        if score is not None and math.isfinite(score):
            self._scores[cell] = score

    def draw(self, number: int) -> Cell:
        """Return the cell of a number.

        Raises:
            RaylabError: next to all cells were tried.
        """
        rng = generator(self._seed, number)
        for _ in range(TRIES):
            cell = self._one(rng)
            if cell not in self._drawn:
                self._drawn.add(cell)
                return cell
        raise RaylabError(f"{len(self._drawn)} cells were tried, and no other is found: take fewer --cells.")

    def _one(self, rng: np.random.Generator) -> Cell:
        config = self._config
        if config.kind == "uniform" or not self._scores or rng.random() < config.uniform_share:
            return uniform(rng, self._branches)
        best = sorted(self._scores, key=lambda cell: -self._scores[cell])[: config.best]
        return near(best[int(rng.integers(len(best)))], rng)


def goes_on(value: float, others: Sequence[float], keep: int) -> bool:
    """Tell whether a cell goes on behind a look: it is in the best of `keep`-th of all so far (arXiv 1810.05934).

    Args:
        value: of the cell.
        others: of those that were there before.
        keep: of so many, one goes on.
    """
    if not math.isfinite(value):
        return False
    better = sum(other > value for other in others if math.isfinite(other))
    return better < (len(others) + 1) / keep

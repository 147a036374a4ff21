"""The space of dense-prediction cells (arXiv 1809.04184, section 3.2), and their file format. Knows no torch.

A cell is a list of branches. Each takes the backbone's map or an earlier branch's output, and applies one of 81
operators to it: a 1x1 convolution, a 3x3 separable convolution with one of 8 x 8 atrous rates, or an average pyramid
pooling with one of 4 x 4 grids. All outputs are concatenated. There are B! * 81^B cells of B branches.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import factorial
from pathlib import Path
from typing import Any

import numpy as np

from raylab.errors import RaylabError, nearest

BACKBONE = -1
"""Input of a branch: the backbone's map, instead of an earlier branch's number."""
BRANCHES = 5
RATES = (1, 3, 6, 9, 12, 15, 18, 21)
GRIDS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Branch:
    """One branch."""

    op: str
    """``conv1x1``, ``separable`` (3x3) or ``pooling``."""
    size: tuple[int, int]
    """Height and width: of a separable convolution its rates, of pooling its grid; (1, 1) of a 1x1 convolution."""
    input: int = BACKBONE

    def __str__(self) -> str:
        """Say what it does, in a few words."""
        if self.op == "conv1x1":
            return "1x1 conv"
        return f"3x3 conv, rate {_times(self.size)}" if self.op == "separable" else f"pooling {_times(self.size)}"


Cell = tuple[Branch, ...]

OPERATORS: tuple[tuple[str, tuple[int, int]], ...] = (
    ("conv1x1", (1, 1)),
    *(("separable", (height, width)) for height in RATES for width in RATES),
    *(("pooling", (height, width)) for height in GRIDS for width in GRIDS),
)
"""All 81."""


def _times(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def space_size(branches: int = BRANCHES) -> int:
    """Return how many cells there are."""
    return factorial(branches) * len(OPERATORS) ** branches


def cell_at(number: int, branches: int = BRANCHES) -> Cell:
    """Return the cell of a number, 0 to `space_size` - 1; each cell has one.

    Raises:
        ValueError: there is no such number.
    """
    if not 0 <= number < space_size(branches):
        raise ValueError(f"cell {number} of {space_size(branches)}")
    found = []
    for place in range(branches):
        number, choice = divmod(number, len(OPERATORS) * (place + 1))
        op, size = OPERATORS[choice % len(OPERATORS)]
        found.append(Branch(op, size, choice // len(OPERATORS) - 1))
    return tuple(found)


def uniform(rng: np.random.Generator, branches: int = BRANCHES) -> Cell:
    """Draw one of all cells."""
    return cell_at(int(rng.integers(space_size(branches))), branches)


def near(cell: Cell, rng: np.random.Generator) -> Cell:
    """Draw a cell that differs from another one in the operator or the input of one branch.

    The paper leaves open what "near" is: this neighbourhood is our choice.
    """
    place = int(rng.integers(len(cell)))
    branch = cell[place]
    if place and rng.random() < 0.5:
        others = [one for one in range(-1, place) if one != branch.input]
        new = Branch(branch.op, branch.size, int(rng.choice(others)))
    else:
        operators = [one for one in OPERATORS if one != (branch.op, branch.size)]
        new = Branch(*operators[rng.integers(len(operators))], branch.input)
    return (*cell[:place], new, *cell[place + 1 :])


def branch_weights(cell: Cell, channels: int, filters: int) -> int:
    """Return the weights of a cell's convolutions, without norms and final projection: as the paper counts.

    Args:
        cell: it.
        channels: of the backbone's map.
        filters: of each branch.
    """
    found = 0
    for branch in cell:
        inputs = channels if branch.input == BACKBONE else filters
        found += inputs * filters + (9 * inputs if branch.op == "separable" else 0)
    return found


PUBLISHED: Cell = (
    Branch("separable", (1, 6)),
    Branch("separable", (18, 15), 0),
    Branch("separable", (6, 3), 1),
    Branch("separable", (1, 1), 0),
    Branch("separable", (6, 21), 0),
)
"""The best cell found (tensorflow/models, dense_prediction_cell_branch5_top1_cityscapes.json)."""
ASPP: Cell = (
    Branch("conv1x1", (1, 1)),
    *(Branch("separable", (rate, rate)) for rate in (6, 12, 18)),
    Branch("pooling", (1, 1)),
)
"""DeepLabv3's atrous spatial pyramid pooling (arXiv 1706.05587, section 3.3; separable as in 1802.02611) is a cell."""
LINEAR: Cell = (Branch("conv1x1", (1, 1)),)
"""No context at all."""
NAMED: Mapping[str, Cell] = {"dpc": PUBLISHED, "aspp": ASPP, "linear": LINEAR}


def to_json(cell: Cell) -> list[dict[str, Any]]:
    """Return a cell as DeepLab's code reads it (its `dense_prediction_cell`)."""
    return [_to_json(branch) for branch in cell]


def _to_json(branch: Branch) -> dict[str, Any]:
    if branch.op == "conv1x1":
        return {"op": "conv", "kernel": 1, "input": branch.input}
    if branch.op == "separable":
        return {"op": "conv", "kernel": 3, "rate": list(branch.size), "input": branch.input}
    return {"op": "pyramid_pooling", "grid_size": list(branch.size), "kernel": 1, "input": branch.input}


def from_json(values: Any, where: str) -> Cell:
    """Return the cell that DeepLab's format describes; any rates and grids of 1 or more are taken.

    Args:
        values: the list.
        where: it comes from, for people.

    Raises:
        RaylabError: it is none; the message names branch and key.
    """
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        raise RaylabError(f"{where}: a cell is a list of branches, this is {str(values)[:80]!r}.")
    return tuple(_from_json(value, place, f"{where}: branch {place}") for place, value in enumerate(values))


def _from_json(value: Any, place: int, where: str) -> Branch:
    if not isinstance(value, Mapping):
        raise RaylabError(f"{where} is no object with op, kernel and input.")
    source = value.get("input")
    if type(source) is not int or not BACKBONE <= source < place:
        before = f", 0 to {place - 1} the branches before it" if place else ", and no branch is before the first"
        raise RaylabError(f"{where}: input {source!r}: -1 is the backbone{before}.")
    op = value.get("op")
    if op == "pyramid_pooling":
        return Branch("pooling", _pair(value, "grid_size", where), source)
    if op != "conv":
        raise RaylabError(f"{where}: op {op!r} is not known.{nearest(str(op), ('conv', 'pyramid_pooling'))}")
    kernel = _pair(value, "kernel", where)
    if kernel == (1, 1):
        return Branch("conv1x1", (1, 1), source)
    if kernel != (3, 3):
        raise RaylabError(f"{where}: kernel {value['kernel']!r}: 1 or 3.")
    return Branch("separable", _pair(value, "rate", where), source)


def _pair(value: Mapping[str, Any], key: str, where: str) -> tuple[int, int]:
    """Return height and width, which one number stands for where they are the same."""
    found = value.get(key)
    numbers = [found, found] if type(found) is int else found
    if not (isinstance(numbers, list) and len(numbers) == 2 and all(type(n) is int and n >= 1 for n in numbers)):
        raise RaylabError(f"{where}: {key} {found!r}: give [height, width], whole numbers of 1 or more.")
    return numbers[0], numbers[1]


def read_cell(text: str) -> Cell:
    """Return a cell by its name (one of `NAMED`), or from a JSON file.

    Raises:
        RaylabError: no such name, no such file, no cell in it.
    """
    if text in NAMED:
        return NAMED[text]
    if not text.endswith(".json"):
        raise RaylabError(f"cell {text!r}: a .json file, or one of {', '.join(NAMED)}.{nearest(text, NAMED)}")
    try:
        values = json.loads(Path(text).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RaylabError(f"cell {text} cannot be read: {error}") from error
    return from_json(values, text)

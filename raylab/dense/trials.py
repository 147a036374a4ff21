"""Tried cells as a search's folder tells: what was drawn, how each did at its looks, how it ended.

The layout is that of all sweeps (`tune.results`): trials/<number>/trial.json, looks.jsonl, end.json.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raylab.config import check_same, to_dict
from raylab.dense.proxy import OBJECTIVE
from raylab.dense.search_plan import FREE, SearchConfig
from raylab.errors import Interrupted, RaylabError
from raylab.models.cell_space import Cell, from_json, to_json
from raylab.storage import Folder
from raylab.tune.results import END, LOOKS, TRIALS, Objective, Point, TrialResult, note, read_trials

BY = Objective(OBJECTIVE)
SEARCH = "search.json"
"""In a search's folder: its settings."""


@dataclass(frozen=True)
class Tried:
    """A cell that was tried."""

    number: int
    """In the order in which cells were drawn."""
    cell: Cell
    result: TrialResult

    @property
    def score(self) -> float:
        """Its mIoU at its last look, nan before the first."""
        return self.result.value(BY)

    @property
    def weights(self) -> int:
        """Of its branches; 0 before the first look."""
        return int(self.result.points[-1]["weights"]) if self.result.points else 0

    @property
    def is_whole(self) -> bool:
        """Whether it was trained to the proxy's end, and has a score."""
        return self.result.status == "finished" and math.isfinite(self.score)


def folder_of(out: Folder, number: int) -> Folder:
    """Return a trial's folder."""
    return Folder(f"{out.uri}/{TRIALS}/{number:05d}")


def write_drawn(out: Folder, number: int, cell: Cell) -> None:
    """Write down a cell when it is drawn."""
    note(folder_of(out, number), {"cell": to_json(cell)})


def write_look(folder: Folder, points: list[Point]) -> None:
    """Write down a trial's looks so far."""
    folder.write_bytes(LOOKS, "".join(f"{json.dumps(point)}\n" for point in points).encode())


def write_end(folder: Folder, status: str, error: str = "") -> None:
    """Write down how a trial ended, unless that stands there."""
    if not folder.exists(END):
        folder.write_json(END, {"status": status} | ({"error": error} if error else {}))


def read_tried(out: Folder) -> list[Tried]:
    """Return all cells that were drawn, in that order.

    Raises:
        RaylabError: a trial's file holds no cell.
    """
    return [Tried(int(one.id), _cell(one.values, one.out), one) for one in read_trials(out)]


def _cell(values: Mapping[str, Any], where: str) -> Cell:
    if "cell" not in values:
        raise RaylabError(f"{where} was made by no search for cells: give another --out.")
    return from_json(values["cell"], where)


def ranked(tried: list[Tried]) -> list[Tried]:
    """Return those that were trained to the proxy's end, the best first."""
    return sorted((one for one in tried if one.is_whole), key=lambda one: (-one.score, one.number))


def begin(config: SearchConfig, out: Folder) -> None:
    """Write the search's settings, or refuse to go on with another one's search."""
    now = {name: value for name, value in to_dict(config).items() if name not in FREE}
    if out.exists(SEARCH):
        check_same(out.read_json(SEARCH), now, f"{out.uri} holds a search with other settings")
    out.write_json(SEARCH, now)


def check_ended(config: SearchConfig, tried: list[Tried], out: Folder) -> None:
    """Raise `Interrupted` where cells have no end, `RaylabError` where none came to the proxy's."""
    ended = sum(one.result.status != "unfinished" for one in tried)
    if ended < config.cells:
        raise Interrupted(
            f"{config.cells - ended} of {config.cells} cells of {out.uri} are not at their end. The same line goes on."
        )
    if not any(one.is_whole for one in tried):
        why = next((one.result.error for one in tried if one.result.error), "")
        raise RaylabError(f"No cell of {out.uri} came to its end. {why}")

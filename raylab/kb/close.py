"""Names that are nearly those of a knowledge base: found by shared letter triples, without a look at every name.

<kb>/close/   letters.npy, starts.npy     the folded text of every surface, shortest first
              aliases.npy                 its number in the alias index
              bounds.npy                  the first surface of each length
              indptr.npy, postings.npy    letter triple -> the surfaces that hold it, ascending: so shortest first too
              close.json                  which knowledge base it belongs to

Computed once per knowledge base, when the first misspelt name comes, then mapped by all processes of a node.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from raylab.errors import RaylabError
from raylab.kb.catalog import Catalog
from raylab.kb.close_build import ARRAYS, LEAST_LETTERS, MOST_LETTERS, plain, triples, write
from raylab.kb.hashing import open_array

CLOSE = "close"
_FORMAT = 1
_POSTINGS = 100_000
"""Postings that a search reads at most, once it has read the rarest `_LEAST_TRIPLES` triples."""
_LEAST_TRIPLES = 4
_COMPARED = 64
"""Surfaces that are compared letter by letter: those that share the most triples."""


class Near(NamedTuple):
    """A surface that is like a name."""

    text: str
    """Folded as `plain` folds."""
    alias: int
    """Its number in the alias index."""
    likeness: float
    """0..1: twice the letters in common, in order, over the letters of both."""


def figures(text: str) -> tuple[str, list[str]]:
    """Return a folded name's digits and its Roman numerals: names that differ in them are never misspellings."""
    return "".join(re.findall(r"\d", text)), re.findall(r"(?<!\S)[ivx]+(?!\S)", text)


class CloseIndex:
    """All surfaces of a knowledge base by their letter triples, mapped.

    Args:
        arrays: what the folder holds, by name.
    """

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self._letters, self._starts, self._aliases, self._bounds, self._indptr, self._postings = (
            arrays[name] for name in ARRAYS
        )

    def __len__(self) -> int:
        """Return the number of surfaces."""
        return len(self._aliases)

    @classmethod
    def open(cls, catalog: Catalog, folder: Path | None = None) -> CloseIndex:
        """Map the index of a knowledge base, computing it first where it is missing or stale.

        Processes that come at once wait for the first one. Nothing half-written is ever seen.

        Args:
            catalog: the knowledge base.
            folder: where it lies; ``<kb>/close`` unless given.

        Raises:
            RaylabError: it has to be computed and cannot be written.
        """
        place = folder or catalog.path / CLOSE
        expected = {"kb_fingerprint": catalog.info.fingerprint, "entities": len(catalog), "format": _FORMAT}
        arrays = _read(place, expected) or _build_once(place, expected, catalog)
        return cls(arrays)

    def near(self, names: Sequence[str], least: float) -> list[list[Near]]:
        """Return for each name the surfaces that are like it, the likest first.

        Args:
            names: any strings; too short and too long ones are like nothing.
            least: likeness, 0..1; half as like ones are returned too where they turn up, for the runner-up.
        """
        texts = plain(pa.array(names, pa.string())).to_pylist()
        return [self._near(text, least) for text in texts]

    def _near(self, text: str, least: float) -> list[Near]:
        from rapidfuzz import fuzz

        if not LEAST_LETTERS <= len(text) <= MOST_LETTERS:
            return []
        numbers = self._candidates(text, least)
        wanted = figures(text)
        found = [Near(self._text(number), int(self._aliases[number]), 0.0) for number in numbers.tolist()]
        fair = [one for one in found if figures(one.text) == wanted]
        scored = [one._replace(likeness=fuzz.ratio(text, one.text) / 100) for one in fair]
        return sorted((one for one in scored if one.likeness >= least / 2), key=lambda one: (-one.likeness, one.alias))

    def _text(self, number: int) -> str:
        return self._letters[self._starts[number] : self._starts[number + 1]].tobytes().decode()

    def _candidates(self, text: str, least: float) -> np.ndarray:
        """Return the surfaces of about the same length that share the most of the rarer triples, int64."""
        size, least = len(text), max(least, 0.5)
        short, long = int(np.ceil(size * least / (2 - least))), int(size * (2 - least) / least)
        first, last = self._bounds[max(0, min(short, MOST_LETTERS + 1))], self._bounds[min(long, MOST_LETTERS) + 1]
        lists = []
        for triple in np.unique(triples(np.frombuffer(text.encode(), np.uint8))).tolist():
            mine = self._postings[self._indptr[triple] : self._indptr[triple + 1]]
            at, stop = np.searchsorted(mine, np.array([first, last], mine.dtype))
            lists.append(mine[at:stop])
        lists.sort(key=len)
        # An edit of a letter spoils three triples: among so many at least one is left of a name that is like enough.
        enough = max(_LEAST_TRIPLES, 3 * int((1 - least) * 2 * size) + 1)
        chosen: list[np.ndarray] = []
        total = 0
        for one in lists[:enough]:
            if len(chosen) >= _LEAST_TRIPLES and total + len(one) > _POSTINGS:
                break
            chosen.append(one)
            total += len(one)
        return _most_frequent(np.concatenate(chosen), _COMPARED)


def _most_frequent(numbers: np.ndarray, count: int) -> np.ndarray:
    """Return the numbers that occur most often, int64, at most so many; of equally frequent ones the smallest.

    A search spends its time here, so counts are not sorted: they are small.
    """
    numbers = np.sort(numbers)
    first = np.flatnonzero(np.append(True, numbers[1:] != numbers[:-1])[: len(numbers)])
    times = np.diff(np.append(first, len(numbers)))
    at_least = np.cumsum(np.bincount(times, minlength=2)[::-1])[::-1]  # how many occur so often, or more often
    least = int(np.argmax(at_least <= count)) if at_least[-1] <= count else len(at_least)
    sure = first[times >= least]
    also = first[times == least - 1][: count - len(sure)]
    return np.sort(numbers[np.concatenate([sure, also])]).astype(np.int64)


def _read(place: Path, expected: dict[str, object]) -> dict[str, np.ndarray] | None:
    """Map the index if it is all there and the one expected."""
    try:
        if json.loads((place / "close.json").read_text("utf-8")) != expected:
            return None
        return {name: open_array(place / f"{name}.npy") for name in ARRAYS}
    except (FileNotFoundError, NotADirectoryError, ValueError, EOFError):
        return None


def _build_once(place: Path, expected: dict[str, object], catalog: Catalog) -> dict[str, np.ndarray]:
    from filelock import FileLock

    try:
        with FileLock(place.with_name(f"{place.name}.lock")):
            found = _read(place, expected)  # another process may have been faster
            if found is None:
                write(place, expected, catalog)
                found = _read(place, expected)
    except OSError as error:
        raise RaylabError(
            f"{place}: the index of close names has to be computed, and cannot be written here ({error}). Make the "
            "knowledge base's folder writable (about 90 bytes a name), or leave close matches out: "
            "--answers.close-match 2"
        ) from error
    if found is None:
        raise RaylabError(f"{place}: the index of close names was written but cannot be read back; is the disk sound?")
    return found

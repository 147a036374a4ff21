"""What the workers of a run tell its driver. A Ray actor, as `run` starts it; by itself it knows no Ray."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from raylab.errors import RaylabError

Point = dict[str, float]
"""Of a run's curves: name -> value."""


class Word(NamedTuple):
    """What a run's workers are told where they wait."""

    goes: bool
    """Whether the run goes on."""
    more: Point
    """What joins the point of the curves."""


class Pace(Protocol):
    """Says how far a run goes: somebody who runs many, and ends those that do worse."""

    def at(self, step: int, point: Point) -> Word:
        """Take the point of a step that was looked at and whose checkpoint is whole. Workers wait for the word."""
        ...


class Board:
    """What the workers of a run tell its driver: lines to show, where they wait, and why the run ends.

    Workers' own output stays in Ray's logs: Ray Train's parts say much there that is of no use to a reader.

    Where a node is cut off, its workers live on for a while beside those that have taken their place. So workers say
    who they are, and only those that began last are heard; others learn here that they are to stop.

    Of a run that somebody paces, workers wait at each step that was looked at until they are told to go on or to end.
    """

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._workers = ""
        self._error: RaylabError | None = None
        self._reached: tuple[int, Point] | None = None
        self._words: dict[int, Word] = {}

    def begin(self, workers: str) -> None:
        """Hear these workers from now on."""
        self._workers, self._reached = workers, None

    def hears(self, workers: str, line: str = "") -> bool:
        """Tell whether these workers are heard; then take the line."""
        heard = workers == self._workers
        if heard and line:
            self._lines.append(line)
        return heard

    def fail(self, workers: str, error: RaylabError) -> None:
        """Take the reason why the run ends: Ray would start the workers again for what cannot go better."""
        if workers == self._workers:
            self._error = error

    def error(self) -> RaylabError | None:
        """Return why the run ends; None where it goes on."""
        return self._error

    def reach(self, workers: str, step: int, point: Point) -> None:
        """Note that these workers have a whole checkpoint of a step, and wait there."""
        if workers == self._workers and step not in self._words:
            self._reached = step, point

    def reached(self) -> tuple[int, Point] | None:
        """Return where workers wait, and the point of the curves there; None where they do not."""
        return self._reached

    def answer(self, step: int, word: Word) -> None:
        """Let the workers that wait at a step go on, or end there."""
        self._words[step] = word
        if self._reached and self._reached[0] == step:  # else others have taken over, and wait elsewhere
            self._reached = None

    def word(self, step: int) -> Word | None:
        """Tell workers that wait at a step what was said; None: nothing yet."""
        return self._words.get(step)

    def take(self) -> list[str]:
        """Return the lines since the last call."""
        lines, self._lines = self._lines, []
        return lines

"""What the workers of a run tell its driver. A Ray actor, as `run` starts it; by itself it knows no Ray."""

from __future__ import annotations


class Board:
    """What the workers of a run tell its driver: lines to show, and why the run ends.

    Workers' own output stays in Ray's logs: Ray Train's parts say much there that is of no use to a reader.

    Where a node is cut off, its workers live on for a while beside those that have taken their place. So workers say
    who they are, and only those that began last are heard; others learn here that they are to stop.
    """

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._workers = self._error = ""

    def begin(self, workers: str) -> None:
        """Hear these workers from now on."""
        self._workers = workers

    def hears(self, workers: str, line: str = "") -> bool:
        """Tell whether these workers are heard; then take the line."""
        heard = workers == self._workers
        if heard and line:
            self._lines.append(line)
        return heard

    def fail(self, workers: str, error: str) -> None:
        """Take the reason why the run ends: Ray would start the workers again for what cannot go better."""
        if workers == self._workers:
            self._error = error

    def error(self) -> str:
        """Return why the run ends; empty where it goes on."""
        return self._error

    def take(self) -> list[str]:
        """Return the lines since the last call."""
        lines, self._lines = self._lines, []
        return lines

"""What a worker's death leaves behind. Imports nothing, so that the process that keeps it starts at once."""

from __future__ import annotations


class Attempts:
    """An `isolate.Ledger`: what was begun and never ended. The run keeps it in an actor that outlives the workers."""

    def __init__(self) -> None:
        """Start with nothing begun."""
        self._begun: dict[str, int] = {}

    def begin(self, key: str) -> int:
        """Note that work on `key` starts; return how often it was begun before without an end."""
        before = self._begun.get(key, 0)
        self._begun[key] = before + 1
        return before

    def end(self, key: str) -> None:
        """Forget `key`."""
        self._begun.pop(key, None)

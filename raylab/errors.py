"""The one exception that a user is meant to read."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RaylabError(Exception):
    """Something the user can put right: the message names the file, row or key, and the way out.

    Jobs print the message without a traceback and exit with status 2.
    """


class Interrupted(RaylabError):
    """Machines or people ended it: the same line goes on."""


class OutOfMemory(RaylabError):
    """A device is too small for what a step takes: smaller passes may fit."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the known name closest to `name`, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""

"""What a review tool is given and gives back, whatever its format."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raylab.errors import RaylabError
from raylab.label.samples import Thumbnail
from raylab.storage import Folder

VERDICTS = ("right", "wrong", "unsure")
"""What a person can say of a decision; ``unsure`` leaves it out of every figure and is counted."""
QUESTION = "Is this what the picture shows?"


@dataclass(frozen=True)
class Task:
    """A decision to be judged. Texts are shown as text; they come from the web and from models."""

    row_id: str
    picture: Thumbnail
    caption: str
    entity: str
    entity_id: str
    description: str
    step: str
    decision: str
    candidate: str
    """The entity before a correction; empty without one."""
    rationale: str
    questions: Sequence[str]
    score: float | None
    confidence: float | None
    where: str
    """Shard and key."""
    model: str
    """``id@revision`` of what decided."""


@dataclass(frozen=True)
class Decision:
    """What a person said."""

    row_id: str
    verdict: str
    """One of `VERDICTS`."""
    corrected: str = ""
    """The entity that is right, in the person's words."""


@dataclass(frozen=True)
class Read:
    """A review file, read."""

    decisions: list[Decision]
    """In the order in which they were made, as far as the file tells."""
    unreviewed: int
    """Tasks without a decision."""


def read_json(name: str) -> Any:
    """Return a JSON file's value.

    Args:
        name: a path or URI.

    Raises:
        RaylabError: it is missing, or not JSON.
    """
    parent, _, file = name.rpartition("/")
    folder = Folder(parent or ("/" if name.startswith("/") else "."))
    try:
        return json.loads(folder.read_bytes(file).decode("utf-8-sig"))
    except FileNotFoundError:
        raise RaylabError(f"{name}: there is no such file.") from None
    except OSError as error:
        raise RaylabError(f"{name} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise RaylabError(f"{name} is not JSON ({error}). Export it from the review tool again.") from error


class Place:
    """Where in a review file something is, and complaints about it that name file, task and key."""

    def __init__(self, file: str, number: int, row_id: str = "") -> None:
        """Keep the place: the task's number counts from 1."""
        self._name = f"{file}: task {number}" + (f" (row {row_id})" if row_id else "")

    def error(self, key: str, what: str) -> RaylabError:
        """Return an error to raise."""
        return RaylabError(f"{self._name}: {key}: {what}")

    def get(self, holder: Any, key: str, kind: type, path: str = "") -> Any:
        """Return ``holder[key]``, of the type that is expected.

        Raises:
            RaylabError: it is missing or of another type.
        """
        named = f"{path}{key}"
        if not isinstance(holder, dict):
            raise self.error(named, f"expected an object around it, found {type(holder).__name__}.")
        if key not in holder:
            raise self.error(named, "is missing.")
        if not isinstance(holder[key], kind):
            raise self.error(named, f"must be {_NAMES[kind]}, found {type(holder[key]).__name__}.")
        return holder[key]

    def verdict(self, value: Any, key: str) -> str:
        """Return a verdict.

        Raises:
            RaylabError: it is not one of `VERDICTS`.
        """
        if value not in VERDICTS:
            raise self.error(key, f"{str(value)[:80]!r} is not one of {', '.join(VERDICTS)}.")
        return value


_NAMES = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}

"""Files of one JSON object a line, with messages that name the line."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

from raylab.errors import RaylabError
from raylab.sources.filesystem import IO_ERRORS, absolute, open_file


def read_lines(uri: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (``file:line``, the object) for each line that is not empty; a name that ends with .gz is decompressed.

    Args:
        uri: a path or address.

    Raises:
        RaylabError: the file cannot be read, or a line is no JSON object.
    """
    uri = absolute(uri)
    try:
        stream = open_file(uri, compression="infer")
    except IO_ERRORS as error:
        raise RaylabError(f"{uri}: cannot be opened: {error}") from error
    with stream, io.TextIOWrapper(stream, encoding="utf-8-sig") as text:
        for number, line in enumerate(_checked(text, uri), start=1):
            if line.strip():
                yield f"{uri}:{number}", _object(line, f"{uri}:{number}")


def _checked(text: io.TextIOWrapper, uri: str) -> Iterator[str]:
    try:
        yield from text
    except (*IO_ERRORS, EOFError) as error:
        raise RaylabError(f"{uri}: cannot be read on: {error}") from error


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise RaylabError(f"{where}: no JSON ({error}): {line[:80]!r}") from error
    if not isinstance(value, dict):
        raise RaylabError(f"{where}: a JSON {type(value).__name__} instead of an object.")
    return value


def text_field(row: dict[str, Any], name: str, where: str) -> str:
    """Return a field of a line that must be there and be text.

    Raises:
        RaylabError: it is missing, or no text.
    """
    value = row.get(name)
    if not isinstance(value, str) or not value:
        found = f"is {value!r}" if name in row else f"is missing; present: {', '.join(row)}"
        raise RaylabError(f"{where}: {name!r} {found}.")
    return value

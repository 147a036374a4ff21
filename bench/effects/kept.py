"""Long studies that go on where they were cut off: each part's result is kept in the study's folder as it comes."""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def arguments(words: list[str], *usual: int) -> tuple[list[int], Path | None]:
    """Return the study's numbers, the usual ones where none is given, and its folder if it is to be kept.

    Args:
        words: of the command line: numbers in the order of `usual`, then ``--out DIR``.
        usual: each number, if it is not given.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("numbers", type=int, nargs="*")
    parser.add_argument("--out", type=Path, help="kept here; the same line goes on")
    given = parser.parse_args(words)
    return [*given.numbers, *usual[len(given.numbers) :]], given.out


@contextmanager
def study(out: Path | None) -> Iterator[Path]:
    """Yield the study's folder: `out`, or one that goes away."""
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        yield out
        return
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def kept(part: Path, make: Callable[[], Any]) -> Any:
    """Return a part's result: the kept one, or a new one, which is then kept.

    Args:
        part: a path without suffix. The result lies in ``part.json``; what else the part writes lies in ``part`` itself
            and is removed before the part is begun again.
        make: returns what JSON can hold.
    """
    told = part.with_name(f"{part.name}.json")
    if told.exists():
        return json.loads(told.read_text())
    shutil.rmtree(part, ignore_errors=True)
    found = make()
    told.parent.mkdir(parents=True, exist_ok=True)
    draft = told.with_suffix(".draft")
    draft.write_text(json.dumps(found))
    draft.rename(told)
    return found

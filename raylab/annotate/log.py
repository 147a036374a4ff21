"""The answers of an unfinished run, kept as they came: what was answered is never asked again, whoever is killed.

    answers/00012/<uuid>.parquet     `records.ANSWER` rows of segment 12

A piece is whole or not there. A task that Ray runs twice may answer a request twice; the first one read counts.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raylab.annotate.records import ANSWER, ROW, SEGMENT
from raylab.storage import Folder

ANSWERS = "answers"

Answers = Mapping[int, list[dict[str, Any]]]
"""Row number in a segment -> its answers, in the order in which they were asked for."""


def write_answers(folder: Folder, answers: pa.Table) -> None:
    """Write answers, a piece for each segment among them."""
    for segment in pc.unique(answers[SEGMENT]).to_pylist():
        mine = answers.filter(pc.equal(answers[SEGMENT], segment))
        folder.write_parquet(f"{_of(segment)}/{uuid.uuid4().hex}.parquet", mine.cast(ANSWER))


def read_answers(folder: Folder, segment: int) -> Answers:
    """Return the answers to the rows of a segment."""
    pieces = [name for name in folder.names(_of(segment)) if name.endswith(".parquet")]  # others were not finished
    found: dict[tuple[int, str, int], dict[str, Any]] = {}
    for piece in pieces:
        for answer in folder.read_parquet(piece).to_pylist():
            found.setdefault((answer[ROW], answer["call"], answer["attempt"]), answer)
    by_row: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for (row, _, _), answer in sorted(found.items(), key=lambda item: (item[0][0], item[0][2])):
        by_row[row].append(answer)
    return by_row


def forget_answers(folder: Folder, segment: int) -> None:
    """Remove the answers of a segment that is committed."""
    folder.remove(_of(segment))


def _of(segment: int) -> str:
    return f"{ANSWERS}/{segment:05d}"

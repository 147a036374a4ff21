"""OVEN's files: questions with their answers, images, predictions (arXiv 2302.11154; files as published).

oven_{entity,query}_{train,val,test}.jsonl    data_id, image_id, question, entity_id, entity_text, data_split
ovenid2impath.csv                             oven_id, path of the image in the set that it was taken from
oven_images/<first two digits>/<oven_id><ext> the images
predictions                                   data_id, pred_entity_id; with more answers than one: pred_entity_ids
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import islice, zip_longest
from typing import Any

from raylab.errors import RaylabError
from raylab.evaluate.image_set import LIMITS, Address
from raylab.evaluate.lines import read_lines, text_field
from raylab.sources.base import Source, SourceConfig
from raylab.sources.filesystem import absolute, resolve_inside
from raylab.sources.oven import find_images

_SPLIT = re.compile(r"(entity|query)_(?:\w+_)?(seen|unseen)")


@dataclass(frozen=True)
class Question:
    """A question about a picture, and the entity that answers it."""

    data_id: str
    """Unique."""
    question: str
    entity_id: str
    """The answer."""
    entity_text: str
    """The answer's title."""
    data_split: str = ""
    """``entity_val_seen``, ``query_test_unseen``, ...; empty where the file does not say."""
    image_id: str = ""
    file: str = ""
    """Where the line itself names its image: the path."""
    where: str = ""
    """The line, for messages."""
    image: Any = None
    """A `schema.IMAGE_REF` value, once the image was looked for."""

    @property
    def part(self) -> tuple[str, str] | None:
        """``("entity", "seen")`` and the like; None for a split that is neither seen nor unseen (training, human)."""
        found = _SPLIT.fullmatch(self.data_split)
        return (found[1], found[2]) if found else None


@dataclass(frozen=True)
class Prediction:
    """What a model answered to one question."""

    data_id: str
    entity_ids: tuple[str | None, ...]
    """Best first; None is an answer that names no entity. Empty: no answer."""

    def line(self) -> dict[str, Any]:
        """Return the line of a predictions file, which the public scorer reads too."""
        first = self.entity_ids[0] if self.entity_ids else None
        return {"data_id": self.data_id, "pred_entity_id": first, "pred_entity_ids": list(self.entity_ids)}


def read_questions(paths: Sequence[str]) -> list[Question]:
    """Read question files.

    Raises:
        RaylabError: a field is missing, a data_id comes twice, a file holds none.
    """
    questions: dict[str, Question] = {}
    for path in paths:
        before = len(questions)
        for where, row in read_lines(path):
            data_id = text_field(row, "data_id", where)
            if data_id in questions:
                raise RaylabError(f"{where}: data_id {data_id!r} was there before ({questions[data_id].where}).")
            questions[data_id] = Question(
                data_id=data_id,
                question=text_field(row, "question", where),
                entity_id=text_field(row, "entity_id", where),
                entity_text=text_field(row, "entity_text", where),
                data_split=str(row.get("data_split") or ""),
                image_id=str(row.get("image_id") or ""),
                file=_inside(row.get("file"), path),
                where=where,
            )
        if len(questions) == before:
            raise RaylabError(f"{path}: no questions there.")
    return list(questions.values())


def _inside(path: object, table: str) -> str:
    """Return the address of the image that a line names, relative to its own file; empty where it names none."""
    if not isinstance(path, str) or not path:
        return ""
    table = absolute(table)
    return resolve_inside(path, table, table.rpartition("/")[0]) or ""


def read_predictions(path: str) -> list[Prediction]:
    """Read a predictions file, as the public scorer takes it, or with a list of answers.

    Raises:
        RaylabError: a line has neither pred_entity_id nor pred_entity_ids.
    """
    return [_prediction(row, where) for where, row in read_lines(path)]


def _prediction(row: Mapping[str, Any], where: str) -> Prediction:
    data_id = text_field(dict(row), "data_id", where)
    if "pred_entity_ids" in row:
        if not isinstance(row["pred_entity_ids"], list):
            raise RaylabError(f"{where}: pred_entity_ids must be a list of entity ids, best first.")
        return Prediction(data_id, tuple(row["pred_entity_ids"]))
    if "pred_entity_id" not in row:
        raise RaylabError(f"{where}: neither pred_entity_id nor pred_entity_ids; present: {', '.join(row)}.")
    return Prediction(data_id, (row["pred_entity_id"],))


def write_predictions(predictions: Iterable[Prediction]) -> bytes:
    """Return a predictions file."""
    return b"".join(json.dumps(one.line(), ensure_ascii=False).encode() + b"\n" for one in predictions)


def open_questions(paths: str, images: str = "") -> tuple[list[Question], Source]:
    """Open questions with their images.

    Args:
        paths: question files, joined by commas; or ``miniworld://?rows=..&seed=..``: the questions of its held-out
            pictures.
        images: the folder that holds ``oven_images`` and, best, ``ovenid2impath.csv``. Not needed where the lines
            themselves name their images in ``file``.

    Returns:
        The questions, `image` filled in, and what reads the bytes.

    Raises:
        RaylabError: see `read_questions`; images are needed and there is no such folder.
    """
    if paths.startswith("miniworld:"):
        return _miniworld(paths)
    from raylab.sources.files import FileSource

    questions = read_questions([path for path in paths.split(",") if path])
    find = {one.image_id: one.file for one in questions if one.file}
    if any(not one.file for one in questions):
        if not images:
            raise RaylabError(f"--oven.images is missing: {paths} names its images by id only.")
        find |= find_images(absolute(images), {one.image_id for one in questions if not one.file})
    placed = [_with_image(one, one.file or find.get(one.image_id)) for one in questions]
    return placed, FileSource(SourceConfig(uri=images or paths.partition(",")[0], limits=LIMITS))


def drawn(questions: Sequence[Question], rows: int) -> list[Question]:
    """Return so many of the questions, as evenly from each split as they go, the same ones each time; 0: all."""
    if not rows:
        return list(questions)
    splits: dict[str, list[Question]] = defaultdict(list)
    for question in sorted(questions, key=lambda one: blake2b(one.data_id.encode()).digest()):
        splits[question.data_split].append(question)
    turns = zip_longest(*(splits[split] for split in sorted(splits)))
    return list(islice((one for turn in turns for one in turn if one is not None), rows))


def _with_image(question: Question, uri: str | None) -> Question:
    return replace(question, image={"uri": uri, "offset": 0, "size": -1})


def _miniworld(text: str) -> tuple[list[Question], Source]:
    from raylab.sources.miniworld.source import MiniworldSource

    address = Address.parse(text)
    questions = list(_drawn(address.uri))
    if address.rows:
        questions = questions[: address.rows]
    if not questions:
        raise RaylabError(f"{text}: no held-out picture in a world this small; raise rows.")
    return questions, MiniworldSource(SourceConfig(uri=address.uri))


def _drawn(uri: str) -> Iterator[Question]:
    from raylab.sources.miniworld.questions import questions
    from raylab.sources.miniworld.samples import sample
    from raylab.sources.miniworld.source import parse_uri

    world = parse_uri(uri)
    for index in range(world["rows"]):
        row = sample(world["seed"], index)
        for one in questions(row) if row.split != "train" else ():
            yield Question(
                one.data_id, one.question, one.entity_id, one.entity_text, one.data_split, one.image_id, "", "",
                one.image,
            )  # fmt: skip


class Titles:
    """From a title in a model's own words to an entity, by exact match.

    Letters and spacing are compared as they are; where that finds nothing, folded as names in a knowledge base are:
    ``paris`` finds ``Paris``, unless two titles fold to the same.

    Args:
        titles: entity id -> title.
    """

    def __init__(self, titles: Mapping[str, str]) -> None:
        from raylab.kb.normalise import fold

        self._fold = fold
        self._exact: dict[str, str | None] = {}
        self._folded: dict[str, str | None] = {}
        for entity_id, title in titles.items():
            for known, name in ((self._exact, title), (self._folded, fold(title))):
                known[name] = entity_id if known.get(name, entity_id) == entity_id else None

    def __call__(self, text: str) -> str | None:
        """Return the entity with this title; None where there is none, or more than one."""
        text = text.strip()
        if text in self._exact:
            return self._exact[text]
        return self._folded.get(self._fold(text))

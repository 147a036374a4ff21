"""One segment at a time: its rows, their conversations so far, what to ask next, and its end. Knows no Ray."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import pyarrow as pa

from raylab.annotate import candidates
from raylab.annotate.conversation import Conversations, State
from raylab.annotate.finish import finish
from raylab.annotate.log import forget_answers, read_answers, write_answers
from raylab.annotate.plan import EngineConfig, RewConfig
from raylab.annotate.requests import RequestBuilder
from raylab.annotate.resolve import Resolver
from raylab.kb.catalog import Catalog
from raylab.label import store
from raylab.sources import open_source
from raylab.storage import Folder

BUILT_AT_ONCE = 64
"""Rows whose requests are built together: their pictures are read in one go."""


@dataclass(frozen=True)
class Desk:
    """What a worker needs to read and to continue the conversations of a run. Cheap to send."""

    config: RewConfig
    folder: Folder

    def open(self, segment: int) -> tuple[pa.Table, list[list[dict[str, Any]]], list[State]]:
        """Return a segment's rows, their answers and states."""
        name = self.folder.read_json(candidates.DONE)["segments"][segment]
        rows = self.folder.read_parquet(name)
        by_row = read_answers(self.folder, segment)
        answers = [by_row.get(number, []) for number in range(len(rows))]
        plain = rows.select(["entity_id", "entity_name"]).to_pylist()
        return rows, answers, _conversations(self.config).states(plain, answers)

    def advance(self, segment: int) -> Counter[str] | None:
        """Commit the segment if all its rows are done, and return None; else how many requests each part has left."""
        rows, answers, states = self.open(segment)
        left = Counter(state.ask.part for state in states if state.ask)
        if left:
            return left
        model = model_id(self.config.annotator)
        final = finish(rows, states, answers, _conversations(self.config).prompts, model)
        store.commit_rows(self.folder, segment, final, candidates.steps_of(self.config))
        forget_answers(self.folder, segment)
        return None

    def requests(self, segment: int, parts: Sequence[str]) -> Iterator[pa.Table]:
        """Yield the requests that rows of the segment have left, of these parts of the conversation."""
        rows, _, states = self.open(segment)
        numbers = [number for number, state in enumerate(states) if state.ask and state.ask.part in parts]
        builder = RequestBuilder(
            self.config, _conversations(self.config).prompts, _catalog(self.config.kb), open_source(self.config.source)
        )
        for start in range(0, len(numbers), BUILT_AT_ONCE):
            chosen = numbers[start : start + BUILT_AT_ONCE]
            told = rows.take(pa.array(chosen)).select(["entity_id", "entity_name", "caption", "image"]).to_pylist()
            requests, answers = builder(segment, chosen, told, [states[number] for number in chosen])
            if len(answers):
                write_answers(self.folder, answers)
            if len(requests):
                yield requests


@cache
def _catalog(kb: str) -> Catalog:
    return Catalog.open(kb)


@cache
def _conversations(config: RewConfig) -> Conversations:
    resolver = Resolver(_catalog(config.kb), config.answers.close_match)
    return Conversations(config.load_prompts(), config.answers, resolver)


def model_id(engine: EngineConfig) -> str:
    """Return ``id@revision``, or the address, of an engine's model."""
    model = engine.model.split("?")[0]
    return f"{model}@{engine.revision}" if engine.revision else model

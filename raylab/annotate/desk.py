"""One segment at a time: its rows, their conversations so far, what to ask next, and its end. Knows no Ray."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import pyarrow as pa

from raylab.annotate import candidates
from raylab.annotate.conversation import Conversations, State
from raylab.annotate.finish import finish
from raylab.annotate.log import Answers, forget_answers, read_answers, write_answers
from raylab.annotate.plan import EngineConfig, RewConfig
from raylab.annotate.records import REQUEST, ROW, SEGMENT, key_of
from raylab.annotate.requests import RequestBuilder
from raylab.annotate.resolve import Resolver
from raylab.kb.catalog import Catalog
from raylab.label import store
from raylab.sources import open_source
from raylab.storage import Folder

BUILT_AT_ONCE = 64
"""Rows whose requests are built together: their pictures are read in one go."""
JUDGED = ["entity_id", "entity_name"]
"""What answers are judged by."""
TOLD = [*JUDGED, "caption", "image"]
"""What requests are built from."""


@dataclass(frozen=True)
class Desk:
    """What a worker needs to read and to continue the conversations of a run. Cheap to send."""

    config: RewConfig
    folder: Folder

    def open(self, segment: int) -> tuple[pa.Table, list[list[dict[str, Any]]], list[State]]:
        """Return a segment's rows, their answers and states."""
        rows = self.rows(segment)
        by_row = read_answers(self.folder, segment)
        answers = [by_row.get(number, []) for number in range(len(rows))]
        return rows, answers, _conversations(self.config).states(rows.select(JUDGED).to_pylist(), answers)

    def rows(self, segment: int) -> pa.Table:
        """Return a segment's rows, as `candidates.GROUPED`."""
        return self.folder.read_parquet(self.folder.read_json(candidates.DONE)["segments"][segment])

    def advance(self, segment: int) -> Counter[str] | None:
        """Commit the segment if all its rows are done, and return None; else how many requests each part has left.

        Ray repeats this where a node goes before it has said that it is done: what is committed stays as it is.
        """
        if store.is_committed(self.folder, segment):
            return None
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
        asking = {number: state for number, state in enumerate(states) if state.ask and state.ask.part in parts}
        numbers = list(asking)
        for start in range(0, len(numbers), BUILT_AT_ONCE):
            some = {number: asking[number] for number in numbers[start : start + BUILT_AT_ONCE]}
            if len(requests := self.build(segment, rows, some)):
                yield requests

    def build(
        self,
        segment: int,
        rows: pa.Table,
        asking: Mapping[int, State],
        pictures: Mapping[int, bytes | None] | None = None,
    ) -> pa.Table:
        """Return the requests of rows, by their numbers; what cannot be asked because of its picture is answered."""
        if not asking:
            return REQUEST.empty_table()
        told = rows.take(pa.array(list(asking), pa.int64())).select(TOLD).to_pylist()
        requests, answers = _builder(self.config)(segment, list(asking), told, list(asking.values()), pictures)
        if len(answers):
            write_answers(self.folder, answers)
        return requests


@dataclass(frozen=True)
class DeskTalk:
    """The desk as an engine sees it: a `turns.Talk` about these parts of the conversation."""

    desk: Desk
    parts: tuple[str, ...]

    def keep(self, answers: pa.Table) -> None:
        """See `turns.Talk`."""
        write_answers(self.desk.folder, answers)

    def kept(self, requests: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """See `turns.Talk`."""
        wanted = {key_of(request) for request in requests}
        given = [_opened(self.desk, request[SEGMENT])[1].get(request[ROW], []) for request in requests]
        return [answer for answers in given for answer in answers if key_of(answer) in wanted]

    def go_on(
        self, answers: Sequence[Mapping[str, Any]], pictures: Mapping[tuple[int, int], bytes | None]
    ) -> list[dict[str, Any]]:
        """See `turns.Talk`."""
        by_segment: dict[int, dict[int, list[Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(list))
        for answer in answers:
            by_segment[answer[SEGMENT]][answer[ROW]].append(answer)
        requests = [self._go_on(segment, by_row, pictures) for segment, by_row in by_segment.items()]
        return [request for one in requests for request in one.to_pylist()]

    def _go_on(
        self,
        segment: int,
        said: Mapping[int, Sequence[Mapping[str, Any]]],
        pictures: Mapping[tuple[int, int], bytes | None],
    ) -> pa.Table:
        rows, earlier = _opened(self.desk, segment)
        answers = [_together(earlier.get(number, []), now) for number, now in said.items()]
        chosen = rows.take(pa.array(list(said), pa.int64())).select(JUDGED).to_pylist()
        states = zip(said, _conversations(self.desk.config).states(chosen, answers))
        asking = {number: state for number, state in states if state.ask and state.ask.part in self.parts}
        known = {number: pictures[segment, number] for number in asking}
        return self.desk.build(segment, rows, asking, known)


def _together(earlier: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return a row's answers of earlier runs and rounds and those that it has just got."""
    by_key = {key_of(answer): answer for answer in (*now, *earlier)}
    return sorted(by_key.values(), key=lambda answer: answer["attempt"])


@lru_cache(maxsize=4)
def _opened(desk: Desk, segment: int) -> tuple[pa.Table, Answers]:
    """Return a segment's rows, and the answers to them that there were when it was first asked for in this process."""
    return desk.rows(segment), read_answers(desk.folder, segment)


@cache
def _builder(config: RewConfig) -> RequestBuilder:
    return RequestBuilder(config, _conversations(config).prompts, _catalog(config.kb), open_source(config.source))


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

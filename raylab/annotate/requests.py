"""From rows that have something left to ask to complete requests: words, picture, schema, numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from raylab.annotate.answers import Retry, schema
from raylab.annotate.conversation import State
from raylab.annotate.pictures import picture
from raylab.annotate.plan import EngineConfig, RewConfig
from raylab.annotate.prompts import Prompt, Rendered, plain
from raylab.annotate.records import ANSWER, REQUEST, ROW, SEGMENT
from raylab.kb.catalog import Catalog
from raylab.schema import Reason
from raylab.sources.base import Source
from raylab.sources.images import ImageRefused

SHORTER = 3
"""A prompt that was too long is tried again with a summary and a caption of this part of their length."""
CAPTION_CHARS = 1000
"""Characters of a caption that are told."""


class RequestBuilder:
    """Builds the requests of rows of one segment.

    Args:
        config: the run's.
        prompts: the part it plays -> prompt.
        catalog: tells titles and summaries.
        source: gives the pictures.
    """

    def __init__(self, config: RewConfig, prompts: Mapping[str, Prompt], catalog: Catalog, source: Source) -> None:
        self._config = config
        self._prompts = prompts
        self._catalog = catalog
        self._source = source
        self._tokens = {
            "describe": config.answers.describe_tokens,
            "first": config.answers.first_tokens,
            "questions": config.answers.questions_tokens,
        }

    def __call__(
        self,
        segment: int,
        numbers: Sequence[int],
        rows: Sequence[Mapping[str, Any]],
        states: Sequence[State],
        known: Mapping[int, bytes | None] | None = None,
    ) -> tuple[pa.Table, pa.Table]:
        """Build requests for rows whose state has an `Ask`.

        Args:
            segment: theirs.
            numbers: each row's number in the segment.
            rows: rows of a label store.
            states: theirs.
            known: number -> picture as it was sent before; without them, pictures are read.

        Returns:
            `REQUEST` rows, and `ANSWER` rows for those that cannot be asked because of their picture.
        """
        pictures = self._pictures(rows, states) if known is None else [known[number] for number in numbers]
        told = self._told(rows, states)
        requests, answers = [], []
        for number, state, image, values in zip(numbers, states, pictures, told):
            assert state.ask
            prompt = self._prompts[state.ask.part]
            head = {SEGMENT: segment, ROW: number, "call": prompt.call, "attempt": state.ask.attempt}
            if isinstance(image, ImageRefused):
                answers.append(head | {"problem": image.reason.value, "detail": image.detail})
            else:
                requests.append(
                    head | {"image": image, "schema": schema(prompt.call)} | self._rest(state, prompt, values)
                )
        return pa.Table.from_pylist(requests, REQUEST), pa.Table.from_pylist(answers, ANSWER)

    def _rest(self, state: State, prompt: Prompt, values: dict[str, str | None]) -> dict[str, Any]:
        ask = state.ask
        assert ask
        words = prompt.render(**values)
        if state.description and ask.part != "describe":
            words = _read_instead(words, state.description)
        config = self._config.answers
        first = ask.attempt == 1
        return {
            "system": words.system,
            "before": words.before,
            "after": words.after,
            "max_tokens": self._tokens[ask.part] * (2 if ask.retry is Retry.LONGER else 1),
            "temperature": config.temperature if first else config.retry_temperature,
            "seed": config.seed + ask.attempt - 1,
        }

    def _pictures(
        self, rows: Sequence[Mapping[str, Any]], states: Sequence[State]
    ) -> list[bytes | ImageRefused | None]:
        """Return each row's picture as JPEG, or why there is none; None where a description stands for it."""
        looking = [row for row, state in zip(rows, states) if not state.description]
        present = [row["image"] for row in looking if row["image"] is not None]
        data = iter(self._source.image_bytes(present))
        found = iter([self._picture(next(data) if row["image"] is not None else None) for row in looking])
        return [None if state.description else next(found) for state in states]

    def _picture(self, data: bytes | Reason | None) -> bytes | ImageRefused:
        engine: EngineConfig = self._config.describer if self._config.describer.model else self._config.annotator
        if data is None or isinstance(data, Reason):
            return ImageRefused(data or Reason.MISSING_IMAGE, "no bytes to look at")
        try:
            return picture(data, self._config.source.limits, engine.image_tokens * engine.pixels_per_token)
        except ImageRefused as refused:
            return refused

    def _told(self, rows: Sequence[Mapping[str, Any]], states: Sequence[State]) -> list[dict[str, str | None]]:
        """Return what the templates may tell of each row: its entity so far, the caption, the rationale."""
        ids = [_entity_id(row, state) for row, state in zip(rows, states)]
        at = self._catalog.rows(pa.array(ids, pa.string()))
        known = self._catalog.take(np.maximum(at, 0), ("title", "description", "summary")).to_pylist()
        told = []
        for row, state, where, entity in zip(rows, states, at, known):
            shorter = SHORTER if state.ask and state.ask.retry is Retry.SHORTER else 1
            of = entity if where >= 0 else {"title": _entity_name(row, state), "description": None, "summary": None}
            told.append(
                {
                    "title": of["title"],
                    "description": of["description"],
                    "summary": (of["summary"] or "")[: self._config.answers.summary_chars // shorter],
                    "caption": (row["caption"] or "")[: CAPTION_CHARS // shorter],
                    "rationale": state.verdict.rationale if state.verdict else "",
                }
            )
        return told


def _entity_id(row: Mapping[str, Any], state: State) -> str | None:
    """Return the entity that the next request speaks of: the candidate, or once it is corrected the new one."""
    return state.resolved.entity_id if state.resolved else row["entity_id"]


def _entity_name(row: Mapping[str, Any], state: State) -> str | None:
    return state.resolved.name if state.resolved else row["entity_name"]


def _read_instead(words: Rendered, description: str) -> Rendered:
    """Put a description where the picture would stand (the open-model variant: the same prompts, no picture)."""
    before = f"{words.before}\nThe image, described: {plain(description)}".strip()
    return Rendered(words.system, before, words.after)

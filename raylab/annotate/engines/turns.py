"""A batch of rows is asked about until nothing is left: what an answer leads to is asked at once, by the same engine.

So the engine is started once for both calls, and no batch waits for another. Knows no Ray.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import pyarrow as pa

from raylab.annotate.engines.replies import ASKED_AT
from raylab.annotate.records import ROW, SEGMENT, key_of
from raylab.label.isolate import Ledger

logger = logging.getLogger(__name__)

Place = tuple[int, int]
"""Segment and row: whom a request or an answer is about."""
Ask = Callable[[list[dict[str, Any]], bool], Awaitable[list[dict[str, Any]]]]
"""Answers requests; True where an actor died with some of them in hand."""


class Talk(Protocol):
    """Whoever asks: keeps answers, and knows what they lead to. Called in threads of the process that has them."""

    def keep(self, answers: pa.Table) -> None:
        """Take `records.ANSWER` rows as soon as they are there: what it has taken is never lost."""

    def kept(self, requests: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return the answers to these requests that were taken in the life of another process."""

    def go_on(
        self, answers: Sequence[Mapping[str, Any]], pictures: Mapping[Place, bytes | None]
    ) -> list[dict[str, Any]]:
        """Return the requests, rows of `records.REQUEST`, that all answers so far lead to; at most one a place."""


class OneTurn:
    """A `Talk` that keeps nothing and asks nothing further."""

    def keep(self, answers: pa.Table) -> None:
        """See `Talk`."""

    def kept(self, requests: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """See `Talk`."""
        return []

    def go_on(
        self, answers: Sequence[Mapping[str, Any]], pictures: Mapping[Place, bytes | None]
    ) -> list[dict[str, Any]]:
        """See `Talk`."""
        return []


async def take_turns(
    requests: Sequence[Mapping[str, Any]], ask: Ask, talk: Talk, ledger: Ledger
) -> list[dict[str, Any]]:
    """Ask, and ask what the answers lead to, until there is nothing left.

    Args:
        requests: rows of `records.REQUEST`, one a place.
        ask: the engine. It hands answers to ``talk.keep`` itself, since it may break off with some of them.
        talk: what it has kept is not asked again. When an actor dies, Ray repeats whole tasks: batches that were in
            hand, and others that had long been answered.
        ledger: outlives the actor.

    Returns:
        Rows of `records.ANSWER`, each place's in the order of its requests.
    """
    key = f"batch/{key_of(requests[0])}/{key_of(requests[-1])}/{len(requests)}"
    again = bool(await asyncio.to_thread(ledger.begin, key))
    if again:
        logger.warning("an actor died with a batch of %d requests in hand: now with care", len(requests))
    pictures = {place_of(request): request["image"] or None for request in requests}
    said: list[dict[str, Any]] = []
    open_now = [dict(request) for request in requests]
    while open_now:
        known = await asyncio.to_thread(talk.kept, open_now)
        answered = {key_of(answer) for answer in known}
        left = [request | {ASKED_AT: time.time()} for request in open_now if key_of(request) not in answered]
        said += known + (await ask(left, again) if left else [])
        open_now = await asyncio.to_thread(talk.go_on, said, pictures)
    await asyncio.to_thread(ledger.end, key)
    return said


def place_of(row: Mapping[str, Any]) -> Place:
    """Return whom a request or an answer is about."""
    return row[SEGMENT], row[ROW]

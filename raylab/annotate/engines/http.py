"""A client for one OpenAI-compatible server, by its chat completions. Knows no Ray.

Every request is either answered, or has a `Problem` that the server named, or ends the run with a `RaylabError`: what
passes (a busy server, a broken connection) is waited for, what does not (a wrong key) is said at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import httpx
import pyarrow as pa

from raylab.annotate.engines import messages
from raylab.annotate.engines.messages import NoAnswer
from raylab.annotate.engines.replies import problem_in, refused, table
from raylab.annotate.plan import EngineConfig
from raylab.annotate.records import Problem
from raylab.errors import RaylabError

logger = logging.getLogger(__name__)

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
"""Between tries of one request: doubled each time, and never all requests at the same moment."""
LONGEST_PAUSE_S = 120.0
"""A server's Retry-After is believed up to here."""
TRIES = 6
"""A request that fails so often, while others are answered, is given up."""
BUSY, PASSING, ITS_OWN = (429, 503), (408, 409, 425, 429), (400, 413, 422)
"""Statuses: all requests wait; worth another try (with all from 500 on); the one request's fault."""


class ChatServer:
    """Sends requests, a limited number at once, and waits where it must.

    Args:
        engine: the address and the limits.
        key: sent as bearer token; empty: none. Appears in no message.
        transport: of httpx, for tests.
    """

    def __init__(self, engine: EngineConfig, key: str = "", transport: httpx.AsyncBaseTransport | None = None) -> None:
        """Connect to nothing yet."""
        self._engine = engine
        self._key = key
        self._url = engine.model.rstrip("/").removesuffix("/chat/completions")
        self._name = engine.served_name
        self._naming = asyncio.Lock()
        self._slots = asyncio.Semaphore(engine.concurrency)
        self._paused_until = self._last_answer = 0.0
        self._busy_since = 0.0
        self._under_way = 0
        self._client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(engine.timeout_s),
            limits=httpx.Limits(max_connections=engine.concurrency, max_keepalive_connections=engine.concurrency),
            follow_redirects=False,  # the key would travel to whoever is named there
            transport=transport,
        )

    async def answer_all(
        self, requests: Sequence[Mapping[str, Any]], keep: Callable[[pa.Table], None] | None = None
    ) -> list[dict[str, Any]]:
        """Answer requests, in their order.

        Args:
            requests: rows of `records.REQUEST`.
            keep: takes the answers, also those of requests that were answered before another one ended the run.

        Raises:
            RaylabError: see `answer`; the other requests are cancelled.
        """
        tasks = [asyncio.ensure_future(self.answer(request)) for request in requests]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            done = [task.result() for task in tasks if task.done() and not task.exception()]
            if keep and done:
                await asyncio.to_thread(keep, table(done))
            return [task.result() if task.done() else await task for task in tasks]
        finally:
            for task in tasks:
                task.cancel()

    async def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer to a row of `records.REQUEST`, as a row of `records.ANSWER`.

        Raises:
            RaylabError: no answer to anything for `give_up_s`; a wrong key or address; several models and no name.
        """
        async with self._slots, self._busy():
            body = messages.body(request, await self._model())
            try:
                said = await self._ask("POST", "/chat/completions", body)
                return messages.read(request, said)
            except _Refused as refusal:
                return refused(request, refusal.problem, self._hide(refusal.words))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _model(self) -> str:
        """Return the model's name there; asks for it once."""
        async with self._naming:
            if not self._name:
                try:
                    self._name = messages.only_model(await self._ask("GET", "/models", None), self._url)
                except _Refused as refusal:
                    raise RaylabError(f"{self._url}/models: {self._hide(refusal.words)}. Give --served-name.") from None
        return self._name

    async def _ask(self, method: str, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        """Send until there is an answer.

        Raises:
            _Refused: the request's own fault.
            RaylabError: nobody's answer for too long, or something that no waiting mends.
        """
        started, failures, wait = time.monotonic(), 0, FIRST_WAIT_S
        while True:
            await self._pause_over()
            try:
                said = await self._try(method, path, body)
            except _Failed as failed:
                words = self._hide(str(failed))
                failures += failed.counts
            else:
                self._last_answer = time.monotonic()
                return said
            self._check_patience(words)
            if failures >= TRIES and self._last_answer > started:
                raise _Refused(Problem.REQUEST_REFUSED, f"failed {failures} times while others were answered: {words}")
            logger.info("%s: %s; trying again", self._url, words)
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))
            wait = min(2 * wait, LONGEST_WAIT_S)

    async def _try(self, method: str, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        """Send once."""
        try:
            async with asyncio.timeout(self._engine.timeout_s):
                reply = await self._client.request(method, self._url + path, json=body)
        except TimeoutError:
            raise _Failed(f"no reply within {self._engine.timeout_s:g} s") from None
        except httpx.TransportError as error:
            raise self._broken(error) from None
        except (httpx.InvalidURL, UnicodeError) as error:
            raise RaylabError(f"{self._url} is no address ({error}).") from None
        if reply.status_code == 200:
            try:
                return messages.parse(reply.text, whole=body is not None)
            except NoAnswer as error:
                raise _Failed(str(error)) from None
        raise self._verdict(reply)

    def _broken(self, error: httpx.TransportError) -> Exception:
        words = f"{type(error).__name__}: {error}"
        if "CERTIFICATE_VERIFY_FAILED" in words:
            return RaylabError(
                f"{self._url}: its certificate is not trusted here ({error}). SSL_CERT_FILE names others."
            )
        unreached = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
        return _Failed(words, counts=not unreached)

    def _verdict(self, reply: httpx.Response) -> Exception:
        """Return what a status other than 200 means."""
        status, said = reply.status_code, messages.complaint(reply.text)
        words = f"HTTP {status}: {said}"
        if status in ITS_OWN:
            self._last_answer = time.monotonic()
            return _Refused(problem_in(said), words)
        if status in BUSY:
            self._pause(messages.seconds_to_wait(reply.headers.get("retry-after")))
            return _Failed(words, counts=False)
        if status in PASSING or status >= 500:
            return _Failed(words)
        return RaylabError(f"{self._url} answered {self._hide(words)}. {self._way_out(status)}")

    def _way_out(self, status: int) -> str:
        name = self._engine.api_key_env
        if status in (401, 403):
            state = "was refused" if self._key else "is not set where the workers run"
            return (
                f"The key is read from the environment variable {name}, which {state}: export it before the job, or "
                "hand it to a submitted one by `ray job submit --runtime-env`; --annotator.api-key-env names another."
            )
        if status == 404:
            return (
                "Does the address end as it must (often in /v1), and is --annotator.served-name the model's name there?"
            )
        if 300 <= status < 400:
            return "It sends requests elsewhere, and they are not sent after it: give the final address."
        return "Waiting would not mend that."

    async def _pause_over(self) -> None:
        while (left := self._paused_until - time.monotonic()) > 0:
            await asyncio.sleep(left + random.uniform(0, 0.1 * left))

    def _pause(self, seconds: float | None) -> None:
        """Let all requests of this process wait."""
        until = time.monotonic() + min(FIRST_WAIT_S if seconds is None else seconds, LONGEST_PAUSE_S)
        self._paused_until = max(self._paused_until, until)

    @contextlib.asynccontextmanager
    async def _busy(self) -> AsyncIterator[None]:
        """Patience is counted while there is something to wait for."""
        if not self._under_way:
            self._busy_since = time.monotonic()
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    def _check_patience(self, words: str) -> None:
        if time.monotonic() - max(self._last_answer, self._busy_since) > self._engine.give_up_s:
            raise RaylabError(
                f"{self._url} answered nothing for {self._engine.give_up_s:g} s; the last try ended with: {words}. "
                "Answers so far are kept: the same line goes on."
            )

    def _hide(self, words: str) -> str:
        return words.replace(self._key, "***") if self._key else words


class _Failed(Exception):
    """A try that may go better the next time.

    Args:
        words: what happened.
        counts: whether it speaks against the request: a server that is away or busy does not.
    """

    def __init__(self, words: str, *, counts: bool = True) -> None:
        super().__init__(words)
        self.counts = counts


class _Refused(Exception):
    """The server will not answer this request."""

    def __init__(self, problem: Problem, words: str) -> None:
        super().__init__(words)
        self.problem = problem
        self.words = words

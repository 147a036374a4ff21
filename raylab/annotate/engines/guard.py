"""A stage of ray.data.llm that survives its requests: those that kill the engine are found, and answered as such.

Ray's stage ends its process when the engine dies; Ray starts the actor again and hands it the same batches. `Guard`
stands before that stage's own `udf`, and a ledger that outlives the process tells it which batches were in hand. Those
go request by request, with nothing else in the engine, and a request that was alone in hand at two deaths is answered
with `Problem.ENGINE_CRASH`. Knows no Ray.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from raylab.annotate.engines import vllm_engine
from raylab.annotate.engines.chat import Template, picture
from raylab.annotate.engines.replies import pack, problem_in, refused, replied, table
from raylab.annotate.engines.turns import Talk, place_of, take_turns
from raylab.annotate.plan import EngineConfig
from raylab.annotate.records import Problem, key_of
from raylab.assets import locate
from raylab.errors import RaylabError
from raylab.label.isolate import CRASHES_TO_CONDEMN, Ledger

logger = logging.getLogger(__name__)

ANSWER_COLUMN = "answer"
"""Where the stage's rows carry their packed answers."""
ERROR_COLUMN = "__inference_error__"
"""ray.data.llm's mark of a row that failed; always empty here: the packed answer says it."""
EMPTIED = {"system": "", "before": "", "image": b"", "after": "", "schema": ""}
"""What has been read does not travel on."""


@dataclass(frozen=True)
class Watch:
    """What a guard knows beside its stage's own arguments."""

    engine: EngineConfig
    ledger: Ledger
    who: Callable[[], str]
    """Names the actor: the same name after a restart."""
    talk: Talk
    """Takes the answers, and knows what they lead to."""


def guarded(base: type) -> type:
    """Return `base`, the class behind ray.data.llm's vLLM stage, with a `Guard` before it."""
    return type(f"Guarded{base.__name__}", (Guard, base), {"behind": base.__module__})


class Guard:
    """Made by `guarded`; the methods that it calls on `super()` are those of the stage behind it.

    What goes wrong while the engine is started is raised at the first batch: an actor that fails while it is made
    would be made again and again.
    """

    IDX_IN_BATCH_COLUMN: str
    behind: str
    """The module of the stage's class: it logs each batch and each refusal, which answers tell better."""

    def __init__(self, *args: Any, watch: Watch, **kwargs: Any) -> None:
        """Start the engine, unless it has died too often."""
        logging.getLogger(self.behind).setLevel(logging.ERROR)
        self._ledger = watch.ledger
        self._talk = watch.talk
        self._gate = Gate()
        self._error: RaylabError | None = None
        engine = replace(watch.engine, model=locate(watch.engine.model))
        deaths = self._ledger.begin(f"engine/{watch.who()}")
        if deaths > engine.max_restarts:
            self._error = RaylabError(
                f"The engine of {watch.engine.model} died {deaths} times, and --annotator.max-restarts is "
                f"{engine.max_restarts}. Its last words are in the workers' logs; often it is memory. "
                "Answers so far are kept: the same line goes on."
            )
        if self._error is None:
            try:
                self._template = Template(engine.model, engine.revision)
                kwargs["engine_kwargs"] = vllm_engine.finish(kwargs["engine_kwargs"])
                super().__init__(*args, **kwargs | {"model": engine.model})
                self._context = vllm_engine.context_tokens(self)
                vllm_engine.watch(self)
            except Exception as error:
                self._error = vllm_engine.explain(watch.engine, error)
        if self._error:  # enough of a stage to raise from
            self.data_column = kwargs["data_column"]
            self.expected_input_keys: set[str] = set()

    async def udf(self, batch: list[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
        """Answer a batch of requests, and what their answers lead to.

        Args:
            batch: rows of `records.REQUEST`, each with its number in the batch.

        Yields:
            Per row: its number, its packed answers, and the row's words and picture emptied.
        """
        if self._error:
            raise self._error
        said: dict[Any, list[dict[str, Any]]] = {place_of(request): [] for request in batch}
        for answer in await take_turns(batch, self._ask, self._talk, self._ledger):
            said[place_of(answer)].append(answer)
        number = self.IDX_IN_BATCH_COLUMN
        for request in batch:
            packed = pack(said[place_of(request)])
            yield {number: request[number], ANSWER_COLUMN: packed, ERROR_COLUMN: "", **EMPTIED}

    async def _ask(self, requests: list[dict[str, Any]], in_hand: bool) -> list[dict[str, Any]]:
        """Answer requests: together, or one by one where they were in hand when the engine died."""
        if in_hand:
            return [await self._alone(request) for request in requests]
        async with self._gate.shared():
            answers = await self._together(requests)
        await self._keep(answers)
        return answers

    async def _keep(self, answers: Sequence[Mapping[str, Any]]) -> None:
        """Hand finished answers over before anything else can happen to them."""
        await asyncio.to_thread(self._talk.keep, table(answers))

    async def _alone(self, request: dict[str, Any]) -> dict[str, Any]:
        key = f"request/{key_of(request)}"
        async with self._gate.exclusive():
            condemned = await asyncio.to_thread(self._ledger.begin, key) >= CRASHES_TO_CONDEMN
            [answer] = [_crash(request)] if condemned else await self._together([request])
        await self._keep([answer])
        if not condemned:  # a verdict stands
            await asyncio.to_thread(self._ledger.end, key)
        return answer

    async def _together(self, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
        number = self.IDX_IN_BATCH_COLUMN
        answers, asked = [], []
        prepared = await asyncio.gather(*(asyncio.to_thread(self._prepare, request) for request in requests))
        for i, found in enumerate(prepared):
            if isinstance(found, tuple):
                answers.append(refused(requests[i], *found))
            else:
                asked.append(found | {number: i})
        if asked:
            async for row in super().udf(asked):  # type: ignore[misc]
                request = requests[row[number]]
                answers.append(self._read(request, row))
        return answers

    def _prepare(self, request: Mapping[str, Any]) -> dict[str, Any] | tuple[Problem, str]:
        """Return what the stage is to be handed for a request, or the problem that it has and its detail."""
        asked: dict[str, Any] = {}
        try:
            asked["prompt"] = self._template.prompt(request)
            asked["sampling_params"] = vllm_engine.sampling(request)
        except RaylabError:
            raise  # not the request's fault
        except Exception as error:
            return Problem.REQUEST_REFUSED, f"{type(error).__name__}: {error}"
        if request["image"]:
            try:
                asked["multimodal_data"] = {"image": picture(request["image"])}
            except Exception as error:
                return Problem.IMAGE_REFUSED, f"{type(error).__name__}: {error}"
        return asked

    def _read(self, request: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
        """Turn the stage's output into an answer."""
        if words := row[ERROR_COLUMN]:
            return refused(request, problem_in(words), words)
        return replied(request, row["generated_text"], **self._heard(request, row))

    def _heard(self, request: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
        ids, prompt_tokens = list(row["generated_tokens"]), row["num_input_tokens"]
        stopped = bool(ids) and ids[-1] in self._template.stop_tokens
        room = min(request["max_tokens"], self._context - prompt_tokens)
        told = row["logprobs"]
        if stopped:
            told = told[: len(ids) - 1]  # the mark of the end is no part of the text
        return {
            "finish": "length" if len(ids) >= room and not stopped else "stop",
            "tokens": [token for token, _ in told],
            "logprobs": [logprob for _, logprob in told],
            "prompt_tokens": prompt_tokens,
            "answer_tokens": len(ids),
        }


def _crash(request: Mapping[str, Any]) -> dict[str, Any]:
    detail = f"the engine died {CRASHES_TO_CONDEMN} times with this request alone in hand"
    return refused(request, Problem.ENGINE_CRASH, detail)


class Gate:
    """Many at a time, or one alone; whoever wants to be alone goes first."""

    def __init__(self) -> None:
        """Open the gate."""
        self._changed = asyncio.Condition()
        self._inside = 0
        self._waiting = 0
        self._alone = False

    @contextlib.asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        """Go in with others."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._alone and not self._waiting)
            self._inside += 1
        try:
            yield
        finally:
            async with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextlib.asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """Go in when nobody is inside, and keep everyone out."""
        async with self._changed:
            self._waiting += 1
            try:
                await self._changed.wait_for(lambda: not self._alone and not self._inside)
                self._alone = True
            finally:
                self._waiting -= 1
                self._changed.notify_all()
        try:
            yield
        finally:
            async with self._changed:
                self._alone = False
                self._changed.notify_all()

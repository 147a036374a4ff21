"""A waiting request and its engine's death, with an engine of ours that hangs or fails on demand."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace

import pytest

from raylab.annotate.engines import vllm_engine

LOGPROB = SimpleNamespace(decoded_token="x", logprob=-0.5)


class Dead(Exception):
    pass


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr(vllm_engine, "SECONDS_BETWEEN_LOOKS", 0.02)


OUTPUT = SimpleNamespace(
    prompt_token_ids=[1, 2, 3],
    outputs=[SimpleNamespace(text="ab", token_ids=(5, 6), logprobs=[{5: LOGPROB}, {6: LOGPROB, 7: None}])],
)


def watched(generate):
    engine = SimpleNamespace(errored=False, dead_error=Dead("dead"))

    async def prepare(row):
        return row

    llm = SimpleNamespace(
        _prepare_llm_request=prepare, _generate_async=generate, semaphore=contextlib.nullcontext(), engine=engine
    )
    vllm_engine.watch(SimpleNamespace(llm=llm))
    return llm.generate_async, engine


async def hang(row):
    await asyncio.sleep(60)


def test_a_slow_answer_is_waited_for():
    async def slow(row):
        await asyncio.sleep(0.1)
        return OUTPUT

    ask, _ = watched(slow)
    request, told, _ = asyncio.run(ask({"a": 1}))
    assert request == {"a": 1}
    assert told == {
        "generated_text": "ab",
        "generated_tokens": [5, 6],
        "logprobs": [("x", -0.5), ("x", -0.5)],
        "num_input_tokens": 3,
    }


def test_a_request_that_waits_for_a_dead_engine_ends():
    ask, engine = watched(hang)

    async def go():
        asking = asyncio.create_task(ask({}))
        await asyncio.sleep(0.05)
        assert not asking.done()
        engine.errored = True
        await asyncio.wait_for(asking, 5)

    with pytest.raises(Dead):
        asyncio.run(go())


def test_what_a_dead_engine_raises_is_its_death():
    async def fail(row):
        engine.errored = True
        raise ValueError("no socket")

    ask, engine = watched(fail)
    with pytest.raises(Dead):
        asyncio.run(ask({}))


def test_an_error_without_words_gets_those_of_its_cause():
    async def fail(row):
        raise RuntimeError from ValueError("the aspect ratio is too large")

    ask, _ = watched(fail)
    with pytest.raises(RuntimeError, match="ValueError: the aspect ratio"):
        asyncio.run(ask({}))


def test_an_error_with_words_stays_as_it_is():
    async def fail(row):
        raise KeyError("prompt")

    ask, _ = watched(fail)
    with pytest.raises(KeyError):
        asyncio.run(ask({}))

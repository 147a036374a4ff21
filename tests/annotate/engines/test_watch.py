"""A waiting request and its engine's death, with an engine of ours that hangs or fails on demand."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from raylab.annotate.engines import vllm_engine


class Dead(Exception):
    pass


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr(vllm_engine, "SECONDS_BETWEEN_LOOKS", 0.02)


def watched(ask):
    engine = SimpleNamespace(errored=False, dead_error=Dead("dead"))
    stage = SimpleNamespace(llm=SimpleNamespace(generate_async=ask, engine=engine))
    vllm_engine.watch(stage)
    return stage.llm.generate_async, engine


async def hang(row):
    await asyncio.sleep(60)


def test_a_slow_answer_is_waited_for():
    async def slow(row):
        await asyncio.sleep(0.1)
        return row

    ask, _ = watched(slow)
    assert asyncio.run(ask({"a": 1})) == {"a": 1}


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

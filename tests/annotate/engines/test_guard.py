"""The guard before a stage of ours that dies on demand; `test_vllm` has the real one."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from annotate.engines.asked import request

from raylab.annotate.engines import guard, vllm_engine
from raylab.annotate.engines.guard import ANSWER_COLUMN, Gate, Watch, guarded
from raylab.annotate.engines.replies import unpack
from raylab.annotate.engines.turns import OneTurn
from raylab.annotate.plan import EngineConfig
from raylab.errors import RaylabError
from raylab.label.attempts import Attempts

NUMBER = "__idx_in_batch"


class Death(BaseException):
    """The process ends."""


class Stage:
    """As ray.data.llm's, as far as the guard sees it."""

    IDX_IN_BATCH_COLUMN = NUMBER
    deadly: tuple[int, ...] = ()
    broken: Exception | None = None

    def __init__(self, data_column, engine_kwargs, model):
        if self.broken:
            raise self.broken
        self.seen: list[list[int]] = []

    async def udf(self, batch):
        rows = [int(row["prompt"].split()[-1]) for row in batch]
        self.seen.append(rows)
        await asyncio.sleep(0)
        if set(rows) & set(self.deadly):
            raise Death
        for row in batch:
            assert set(row) == {NUMBER, "prompt", "sampling_params", "multimodal_data"}
            yield {NUMBER: row[NUMBER], "__inference_error__": "", **OUTPUT}


OUTPUT = {
    "generated_text": "ab",
    "generated_tokens": [5, 6, 2],
    "num_input_tokens": 7,
    "logprobs": [("a", -1.0), ("b", -1.0), ("</s>", -1.0)],
}


@pytest.fixture(autouse=True)
def without_a_model(monkeypatch):
    template = SimpleNamespace(prompt=lambda request: request["after"], stop_tokens={2})
    monkeypatch.setattr(guard, "Template", lambda *_: template)
    monkeypatch.setattr(vllm_engine, "finish", dict)
    monkeypatch.setattr(vllm_engine, "context_tokens", lambda _: 100)
    monkeypatch.setattr(vllm_engine, "watch", lambda _: None)


class Keeper(OneTurn):
    def __init__(self):
        self.log = []

    def keep(self, answers):
        self.log += answers.to_pylist()


def start(ledger, stage=Stage, who="actor", talk=None, **engine):
    watch = Watch(EngineConfig(model="m", **engine), ledger, lambda: who, talk or OneTurn())
    return guarded(stage)(data_column="d", engine_kwargs={}, model="m", watch=watch)


def batch(rows):
    return [request(row) | {NUMBER: row} for row in rows]


def ask(worker, rows):
    async def go():
        return [row async for row in worker.udf(batch(rows))]

    rows = asyncio.run(go())
    return {row[NUMBER]: unpack([row[ANSWER_COLUMN]]).to_pylist()[0] for row in rows}


def until_answered(ledger, stage, rows, talk=None):
    """Ask again after each death, as Ray does; return the answers and the workers."""
    workers = []
    while True:
        workers.append(start(ledger, stage, talk=talk, max_restarts=9))
        try:
            return ask(workers[-1], rows), workers
        except Death:
            pass


def test_undisturbed_a_batch_goes_whole():
    worker = start(Attempts())
    answers = ask(worker, range(4))
    assert worker.seen == [[0, 1, 2, 3]]
    assert {row: told["_row"] for row, told in answers.items()} == {row: row for row in range(4)}
    assert answers[0]["text"] == "ab" and answers[0]["tokens"] == ["a", "b"] and answers[0]["finish"] == "stop"
    assert (answers[0]["prompt_tokens"], answers[0]["answer_tokens"]) == (7, 3)


def test_an_answer_without_its_end_was_cut_off():
    output = OUTPUT | {"generated_tokens": [5, 6], "logprobs": OUTPUT["logprobs"][:2]}

    class Cut(Stage):
        async def udf(self, batch):
            for row in batch:
                yield {NUMBER: row[NUMBER], "__inference_error__": "", **output}

    worker = start(Attempts(), Cut)
    asked = [request(0, max_tokens=2) | {NUMBER: 0}, request(1, max_tokens=9) | {NUMBER: 1}]

    async def go():
        return [row async for row in worker.udf(asked)]

    told = [unpack([row[ANSWER_COLUMN]]).to_pylist()[0] for row in asyncio.run(go())]
    assert [(one["finish"], one["tokens"]) for one in told] == [("length", ["a", "b"]), ("stop", ["a", "b"])]


def test_after_a_death_by_chance_all_are_answered_one_by_one():
    class Once(Stage):
        deaths = 0

        async def udf(self, batch):
            if not Once.deaths:
                Once.deaths += 1
                raise Death
            async for row in super().udf(batch):
                yield row

    answers, workers = until_answered(Attempts(), Once, range(5))
    assert len(workers) == 2 and workers[-1].seen == [[0], [1], [2], [3], [4]]
    assert [told["problem"] for told in answers.values()] == [None] * 5


def test_a_request_that_kills_twice_alone_is_answered_as_a_crash():
    class Deadly(Stage):
        deadly = (2,)

    ledger, keeper = Attempts(), Keeper()
    answers, workers = until_answered(ledger, Deadly, range(5), keeper)
    assert len(workers) == 4  # one death in company, two alone
    assert {row: told["problem"] for row, told in answers.items()} == {
        0: None, 1: None, 2: "engine_crash", 3: None, 4: None
    }  # fmt: skip
    assert workers[-1].seen == [[0], [1], [3], [4]]
    kept = {told["_row"]: told["problem"] for told in keeper.log}
    assert kept == {row: told["problem"] for row, told in answers.items()}


def test_whoever_is_alone_has_the_engine_to_itself():
    ledger = Attempts()
    ledger.begin("batch/0/0/verify/1/0/2/verify/1/3")
    busy = most = 0

    class Watched(Stage):
        async def udf(self, batch):
            nonlocal busy, most
            alone = len(batch) == 1
            busy += 1
            most = max(most, busy if alone else 0)
            await asyncio.sleep(0.01)
            async for row in super().udf(batch):
                yield row
            busy -= 1

    worker = start(ledger, Watched)

    async def one(rows):
        return [row async for row in worker.udf(batch(rows))]

    async def go():
        return await asyncio.gather(one(range(4, 8)), one(range(3)), one(range(8, 12)))

    assert [len(rows) for rows in asyncio.run(go())] == [4, 3, 4]
    assert most == 1


def test_too_many_deaths_end_the_run_before_another_engine_is_started():
    ledger = Attempts()
    start(ledger, max_restarts=1), start(ledger, max_restarts=1), start(ledger, who="another", max_restarts=1)
    third = start(ledger, max_restarts=1)
    assert not hasattr(third, "seen")
    with pytest.raises(RaylabError, match=r"died 2 times.*max-restarts is 1.*the same line goes on"):
        ask(third, range(2))


def test_an_engine_that_does_not_start_is_told_at_the_first_batch():
    class Broken(Stage):
        broken = RuntimeError("no memory")

    worker = start(Attempts(), Broken)
    assert worker.data_column == "d" and worker.expected_input_keys == set()
    with pytest.raises(RaylabError, match=r"could not start m: RuntimeError: no memory"):
        ask(worker, range(2))


def test_what_cannot_be_a_picture_never_reaches_the_engine():
    worker = start(Attempts())

    async def go():
        return [row async for row in worker.udf([request(0, image=b"junk") | {NUMBER: 0}])]

    (row,) = asyncio.run(go())
    assert row["image"] == b"" and worker.seen == []
    assert unpack([row[ANSWER_COLUMN]]).to_pylist()[0]["problem"] == "image_refused"


def test_the_gate_lets_many_in_and_waits_for_whoever_is_alone():
    order = []

    async def go():
        gate = Gate()

        async def shared(name):
            async with gate.shared():
                order.append(name)
                await asyncio.sleep(0.02)

        async def alone(name):
            async with gate.exclusive():
                order.append(f"{name} in")
                await asyncio.sleep(0.02)
                order.append(f"{name} out")

        first = [asyncio.create_task(shared("a")), asyncio.create_task(shared("b"))]
        await asyncio.sleep(0.005)
        rest = [asyncio.create_task(alone("x")), asyncio.create_task(alone("y"))]
        await asyncio.sleep(0.005)
        rest.append(asyncio.create_task(shared("c")))
        await asyncio.gather(*first, *rest)

    asyncio.run(go())
    assert order == ["a", "b", "x in", "x out", "y in", "y out", "c"]

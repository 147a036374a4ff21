from __future__ import annotations

import asyncio
import base64
import logging
import time

import pytest
from annotate.engines.asked import jpeg, request, table
from annotate.engines.scripted_server import GOOD, Reply, serving

from raylab.annotate.engines import http, replies
from raylab.annotate.engines.http import ChatServer
from raylab.annotate.plan import EngineConfig
from raylab.annotate.records import ANSWER
from raylab.errors import RaylabError
from raylab.label.attempts import Attempts
from raylab.session import plain_errors

KEY = "sk-very-secret-1234"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(http, "FIRST_WAIT_S", 0.05)


def run(requests, *, key="", server=None, **engine):
    """Return the answers, and the server after them."""

    async def go():
        async with serving(**(server or {})) as at:
            client = ChatServer(EngineConfig(**{"model": at.url, "give_up_s": 5.0} | engine), key)
            try:
                return await client.answer_all(requests), at
            finally:
                await client.close()

    return asyncio.run(go())


def fails(requests, **how):
    with pytest.raises(RaylabError) as raised:
        run(requests, **how)
    return str(raised.value)


def test_an_answer_comes_with_its_tokens_and_usage():
    answers, at = run([request(3)])
    told = answers[0]
    assert (told["_row"], told["call"], told["text"], told["finish"]) == (3, "verify", GOOD, "stop")
    assert "".join(told["tokens"]) == GOOD and told["logprobs"] == [-0.5] * 4
    assert (told["prompt_tokens"], told["answer_tokens"], told["problem"]) == (17, 5, None)
    assert replies.table(answers).schema == ANSWER
    assert at.bodies[0]["model"] == "tiny"


def test_what_is_sent_is_the_whole_request():
    _, at = run([request(1), request(2, image=None, system="", before="")])
    sent = sorted(at.bodies, key=lambda body: body["seed"])
    system, user = sent[0]["messages"]
    assert system == {"role": "system", "content": "be brief"}
    kinds = [part["type"] for part in user["content"]]
    assert kinds == ["text", "image_url", "text"]
    uri = user["content"][1]["image_url"]["url"]
    assert base64.b64decode(uri.removeprefix("data:image/jpeg;base64,")) == jpeg(7)
    assert sent[0]["response_format"]["json_schema"]["schema"]["required"] == ["decision", "title"]
    assert (sent[0]["max_tokens"], sent[0]["temperature"], sent[0]["seed"], sent[0]["logprobs"]) == (48, 0.0, 1, True)
    assert sent[1]["messages"] == [{"role": "user", "content": [{"type": "text", "text": "what is number 2"}]}]


def test_what_passes_is_waited_for():
    script = [Reply(500, "oops"), Reply(200, "<html>"), Reply(200, '{"choices": []}'), Reply(hang_up=True), Reply(502)]
    answers, at = run([request()], server={"script": script})
    assert answers[0]["text"] == GOOD and len(at.bodies) == 6
    gaps = [later - earlier for earlier, later in zip(at.times, at.times[1:], strict=False)]
    assert gaps[-1] > 4 * gaps[0]  # 0.05 doubled four times, each at least halved by chance


def test_a_slow_reply_counts_as_failed():
    answers, at = run([request()], server={"script": [Reply(after_s=3)]}, timeout_s=0.3)
    assert answers[0]["text"] == GOOD and len(at.bodies) == 2


def test_retry_after_holds_all_requests_back():
    many = [request(row) for row in range(8)]
    script = [Reply(429, "slow down", {"Retry-After": "1"})]
    started = time.monotonic()
    answers, at = run(many, server={"script": script}, concurrency=2)
    assert [told["text"] for told in answers] == [GOOD] * 8
    assert time.monotonic() - started > 1
    during = [moment for moment in at.times if 0.3 < moment - at.times[0] < 0.95]
    assert not during


def test_no_more_requests_at_once_than_allowed():
    _, at = run([request(row) for row in range(20)], server={"script": [Reply(after_s=0.05)] * 20}, concurrency=3)
    assert at.most_at_once == 3


@pytest.mark.parametrize(
    ("status", "says", "problem"),
    [
        (400, "This model's maximum context length is 4096 tokens. However, you requested 5000.", "prompt_too_long"),
        (400, "cannot identify image file", "image_refused"),
        (422, "something is odd", "request_refused"),
        (413, "", "request_refused"),
    ],
)
def test_one_requests_fault_is_that_requests_problem(status, says, problem):
    bad = Reply(status, f'{{"error": {{"message": "{says}"}}}}')
    server = {"decide": lambda body: bad if body["seed"] == 1 else None}
    answers, at = run([request(row) for row in range(3)], server=server)
    assert [told["problem"] for told in answers] == [None, problem, None]
    assert says in answers[1]["detail"] and answers[1]["text"] is None
    assert len(at.bodies) == 3


def test_a_request_that_always_fails_is_given_up_while_others_are_answered(monkeypatch):
    monkeypatch.setattr(http, "TRIES", 3)
    server = {"decide": lambda body: Reply(500, "boom") if body["seed"] == 1 else None}
    answers, _ = run([request(row) for row in range(6)], server=server, concurrency=6)
    assert [told["problem"] for told in answers] == [None, "request_refused", None, None, None, None]
    assert "boom" in answers[1]["detail"]


@pytest.mark.parametrize("status", [401, 403])
def test_a_wrong_key_ends_the_run_at_once_and_stays_secret(status, caplog):
    caplog.set_level(logging.DEBUG)
    server = {"decide": lambda _: Reply(status, f"Incorrect API key provided: {KEY}")}
    said = fails([request(row) for row in range(3)], key=KEY, server=server)
    assert "OPENAI_API_KEY" in said and "was refused" in said and KEY not in said and KEY not in caplog.text


def test_a_missing_key_names_the_variable():
    server = {"decide": lambda _: Reply(401, "no key")}
    assert "MY_KEY, which is not set" in fails([request()], server=server, api_key_env="MY_KEY")


def test_the_key_travels_as_bearer_token_and_is_hidden_in_details():
    server = {"decide": lambda _: Reply(400, f"bad request by {KEY}")}
    answers, at = run([request()], key=KEY, server=server)
    assert all(headers["authorization"] == f"Bearer {KEY}" for headers in at.headers)
    assert KEY not in str(answers) and "***" in answers[0]["detail"]


def test_nothing_is_sent_after_a_redirect():
    server = {"decide": lambda _: Reply(307, "", {"Location": "http://127.0.0.1:9/v1/chat/completions"})}
    assert "give the final address" in fails([request()], key=KEY, server=server)


def test_an_unknown_place_says_what_may_be_wrong():
    said = fails([request()], server={"decide": lambda _: Reply(404, '{"message": "no model x"}')}, served_name="x")
    assert "/v1" in said and "--annotator.served-name" in said and "no model x" in said


def test_of_several_models_one_must_be_named():
    said = fails([request()], server={"models": ("one", "two")})
    assert "one, two" in said and "--annotator.served-name" in said


def test_a_server_that_is_not_there_is_given_up_in_time():
    client = ChatServer(EngineConfig(model="http://127.0.0.1:9/v1", served_name="x", give_up_s=0.5), KEY)
    with pytest.raises(RaylabError, match=r"127\.0\.0\.1:9/v1 answered nothing for 0\.5 s.*ConnectError"):
        asyncio.run(client.answer(request()))


def test_a_server_that_is_always_busy_is_given_up_in_time():
    said = fails([request()], server={"decide": lambda _: Reply(429, "quota")}, give_up_s=0.5)
    assert "answered nothing for 0.5 s" in said and "quota" in said


def test_through_ray(ray_cluster):
    import ray

    from raylab.annotate.engines.run import answer

    async def go():
        async with serving() as at:
            engine = EngineConfig(model=at.url, batch_rows=4, concurrency=8)
            requests = ray.data.from_arrow(table([request(row) for row in range(10)]))
            answers = answer(requests, engine, ledger=Attempts())
            return await asyncio.to_thread(lambda: list(answers.iter_rows()))

    rows = asyncio.run(go())
    assert sorted(row["_row"] for row in rows) == list(range(10)) and {row["text"] for row in rows} == {GOOD}


def test_an_error_comes_out_of_ray_as_ours(ray_cluster):
    import ray

    from raylab.annotate.engines.run import answer

    async def go():
        async with serving(decide=lambda _: Reply(401, "no key")) as at:
            requests = ray.data.from_arrow(table([request(row) for row in range(4)]))
            answers = answer(requests, EngineConfig(model=at.url, api_key_env="NO_SUCH_KEY"), ledger=Attempts())

            def read():
                with plain_errors():
                    list(answers.iter_rows())

            await asyncio.to_thread(read)

    with pytest.raises(RaylabError, match="NO_SUCH_KEY, which is not set"):
        asyncio.run(go())

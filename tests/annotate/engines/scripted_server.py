"""An HTTP server on loopback that does as a script says, and remembers what it was sent."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

GOOD = '{"decision": "verified"}'


@dataclass
class Reply:
    """What the server does with one request."""

    status: int = 200
    body: str | None = None  # None: a good answer
    headers: dict[str, str] = field(default_factory=dict)
    after_s: float = 0.0
    hang_up: bool = False  # the connection ends in the middle of the reply


@dataclass
class Server:
    """What the tests look at."""

    url: str = ""
    models: tuple[str, ...] = ("tiny",)
    script: list[Reply] = field(default_factory=list)  # one a chat request, in order; good answers afterwards
    decide: Callable[[dict[str, Any]], Reply | None] | None = None  # looks at a chat request's body first
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    most_at_once: int = 0
    _now: int = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                first, *lines = head.strip().split("\r\n")
                headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                self.headers.append(headers)
                await self._reply(writer, self._chosen(first.split()[1], body))
        writer.close()

    def _chosen(self, path: str, body: bytes) -> Reply:
        if path.endswith("/models"):
            return Reply(body=json.dumps({"data": [{"id": name} for name in self.models]}))
        if not path.endswith("/v1/chat/completions"):
            return Reply(404, "nothing here")
        asked = json.loads(body)
        self.bodies.append(asked)
        self.times.append(asyncio.get_running_loop().time())
        if self.decide and (reply := self.decide(asked)):
            return reply
        return self.script.pop(0) if self.script else Reply(after_s=0.01)

    async def _reply(self, writer: asyncio.StreamWriter, reply: Reply) -> None:
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        await asyncio.sleep(reply.after_s)
        self._now -= 1
        body = (good() if reply.body is None else reply.body).encode()
        headers = {"Content-Length": str(len(body)), **reply.headers}
        head = f"HTTP/1.1 {reply.status} x\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items()) + "\r\n"
        writer.write(head.encode() + (body[: len(body) // 2] if reply.hang_up else body))
        await writer.drain()
        if reply.hang_up:
            writer.close()


def good() -> str:
    tokens = [{"token": token, "logprob": -0.5} for token in ('{"decision', '": "', "verified", '"}', "<|im_end|>")]
    choice = {"message": {"content": GOOD}, "finish_reason": "stop", "logprobs": {"content": tokens}}
    return json.dumps({"choices": [choice], "usage": {"prompt_tokens": 17, "completion_tokens": 5}})


@contextlib.asynccontextmanager
async def serving(**how: Any) -> AsyncIterator[Server]:
    """Serve on a free port."""
    server = Server(**how)
    listening = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
    try:
        yield server
    finally:
        listening.close()

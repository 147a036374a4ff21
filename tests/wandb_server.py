"""A server on loopback that takes runs as W&B's does, as far as a run that begins, logs and ends asks. For tests."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, answer = self.server.answer(self.path, body)
        sent = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    do_PUT = do_GET = do_POST

    def log_message(self, *_: object) -> None:
        return


class Server(http.server.ThreadingHTTPServer):
    """Answers every request with a status, and one of 200 as W&B's server does; keeps what it was sent.

    Args:
        status: of every answer.
        step: the last step that it has of the run that goes on; 0: it has none.
    """

    daemon_threads = True

    def __init__(self, status: int, step: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status, self.step = status, step
        self.history: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, path: str, body: bytes) -> tuple[int, Any]:
        if self.status != 200:
            return self.status, {"errors": [{"message": "no"}]}
        if path == "/graphql":
            asked = json.loads(body)
            return 200, {"data": self._data(asked["operationName"], asked.get("variables") or {})}
        if path.startswith("/upload/"):
            self.files[path.removeprefix("/upload/")] = body
        elif path.endswith("/file_stream"):
            sent = json.loads(body).get("files") or {}
            self.history += map(json.loads, sent.get("wandb-history.jsonl", {}).get("content", ()))
        return 200, {}

    def _data(self, operation: str, given: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to a query of W&B's GraphQL, as far as a run asks."""
        project = {"id": "1", "name": given.get("project"), "entity": {"id": "1", "name": "team"}}
        bucket = {"id": "1", "name": given.get("name"), "displayName": given.get("displayName"), "project": project}
        match operation:
            case "RunResumeStatus":
                return {"model": project | {"bucket": bucket | self._kept() if self.step else None}}
            case "UpsertBucket":
                return {"upsertBucket": {"bucket": bucket, "inserted": not self.step}}
            case "CreateRunFiles":
                files = [{"name": name, "uploadUrl": f"{self.address}/upload/{name}"} for name in given["files"]]
                return {"createRunFiles": {"runID": "1", "uploadHeaders": [], "files": files}}
        return {}

    def _kept(self) -> dict[str, Any]:
        """Return what is there of a run whose every step was a row."""
        row = json.dumps({"step": self.step, "_step": self.step, "_runtime": 1})
        counts = {"historyLineCount": self.step, "eventsLineCount": 0, "logLineCount": 0}
        tails = {"historyTail": json.dumps([row]), "eventsTail": "[]", "summaryMetrics": row}
        return counts | tails | {"config": "{}", "tags": [], "notes": None, "wandbConfig": '{"t": 1}'}


@contextmanager
def served(status: int = 200, step: int = 0) -> Iterator[Server]:
    """Serve until the block ends."""
    server = Server(status, step)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

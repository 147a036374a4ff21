"""An S3-compatible server whose writes can be slow, so that a run takes a while without work for the cores."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from threading import Thread
from typing import Any

SLOW = ("/pieces/", "/checkpoints/")
"""In the names of what labeling and training write all along."""


class Bucket:
    """Serves buckets on a thread, for a `with`.

    Args:
        address: where it listens.
        port: likewise.
    """

    def __init__(self, address: str, port: int) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from moto.server import MotoRequestHandler
        from werkzeug.serving import make_server

        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it tells of each request
        self.write_s = 0.0
        """How long the write of such a file takes."""
        self._app: Any = DomainDispatcherApplication(create_backend_app)
        self._server = make_server(address, port, self._serve, threaded=True, request_handler=MotoRequestHandler)
        self._thread = Thread(target=self._server.serve_forever, daemon=True)

    def _serve(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] == "PUT" and any(part in environ["PATH_INFO"] for part in SLOW):
            time.sleep(self.write_s)
        found: Iterable[bytes] = self._app(environ, start_response)
        return found

    def __enter__(self) -> Bucket:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

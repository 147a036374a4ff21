"""A spot machine hears of its end from its cloud's metadata server, and tells Ray."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from raylab import spot

AWS = "/latest/meta-data/"
GOOGLE = "/computeMetadata/v1/instance/"
CUT_OFF, NOT_HTTP = b"half of", b"\x00\x01 what is this\r\n\r\n"
"""An answer that ends before its length, and one that is none."""


class Metadata(BaseHTTPRequestHandler):
    """Answers as both clouds do: without the token, or the header, it refuses."""

    told: dict[str, str | bytes]

    def do_PUT(self) -> None:
        life = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds")
        self._say("a-token" if self.path == "/latest/api/token" and life else None)

    def do_GET(self) -> None:
        google = self.path.startswith(GOOGLE) and self.headers.get("Metadata-Flavor") == "Google"
        amazon = self.path.startswith(AWS) and self.headers.get("X-aws-ec2-metadata-token") == "a-token"
        self._say(self.told.get(self.path) if google or amazon else None)

    def _say(self, text: str | bytes | None) -> None:
        if text == NOT_HTTP:
            self.wfile.write(NOT_HTTP)
            return
        self.send_response(200 if text is not None else 404)
        if text == CUT_OFF:
            self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(text if isinstance(text, bytes) else (text or "").encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def metadata(told: dict[str, str | bytes]) -> Iterator[str]:
    handler = type("Told", (Metadata,), {"told": told})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def in_seconds(seconds: float) -> str:
    end = datetime.now(UTC) + timedelta(seconds=seconds)
    return json.dumps({"action": "terminate", "time": end.strftime("%Y-%m-%dT%H:%M:%SZ")})


def test_amazons_notice() -> None:
    told = {f"{AWS}instance-life-cycle": "spot"}
    with metadata(told) as server:
        cloud = spot.Aws(server)
        assert cloud.spot()
        assert cloud.seconds_left() is None
        told[f"{AWS}spot/instance-action"] = in_seconds(120)
        assert cloud.seconds_left() == pytest.approx(120, abs=5)
        told[f"{AWS}instance-life-cycle"] = "on-demand"
        assert cloud.spot() is False
        told[f"{AWS}instance-life-cycle"] = "<html>starting</html>"
        assert cloud.spot() is None


def test_googles_notice() -> None:
    told = {f"{GOOGLE}scheduling/preemptible": "TRUE", f"{GOOGLE}preempted": "FALSE"}
    with metadata(told) as server:
        cloud = spot.Google(server)
        assert cloud.spot()
        assert cloud.seconds_left() is None
        told[f"{GOOGLE}preempted"] = "TRUE"
        assert cloud.seconds_left() == 30
        told[f"{GOOGLE}scheduling/preemptible"] = "FALSE"
        assert cloud.spot() is False


@pytest.mark.parametrize(
    "garbage",
    [
        "no json",
        "{}",
        "[]",
        "7",
        '{"action": "terminate", "time": 7}',
        '{"action": "terminate", "time": "soon"}',
        b"\xff\xfe",
        CUT_OFF,
        NOT_HTTP,
    ],
)
def test_the_watch_outlives_an_answer_that_is_garbage(garbage: str | bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first answer is garbage, the second a notice, which Ray is told."""
    notice, drained = f"{AWS}spot/instance-action", []
    told: dict[str, str | bytes] = {f"{AWS}instance-life-cycle": "spot", notice: garbage}

    def wait(_: float) -> None:
        told[notice] = in_seconds(120)

    monkeypatch.setattr(spot, "node_id", lambda: "a-node")
    monkeypatch.setattr(spot, "drain", lambda node, address, seconds: drained.append(node) is None)
    monkeypatch.setattr(spot.time, "sleep", wait)
    with metadata(told) as server:
        assert spot.watch(spot.Aws(server), "127.0.0.1:1")
    assert drained == ["a-node"]


def test_a_server_that_is_late_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, str | bytes] = {}
    monkeypatch.setattr(spot.time, "sleep", lambda _: told.update({f"{GOOGLE}scheduling/preemptible": "TRUE"}))
    with metadata(told) as server:
        clouds = (spot.Aws(server), spot.Google(server))
        assert spot.find(clouds) is clouds[1]


def test_ray_that_does_not_answer_is_told_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    slow = tmp_path / "ray"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(spot, "DRAIN_SECONDS", 0.2)
    assert not spot.drain("a-node", "127.0.0.1:1", 30)


def test_a_machine_in_no_cloud_is_not_watched(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spot, "START_SECONDS", 0.1)
    monkeypatch.setattr(spot, "POLL_SECONDS", 0.05)
    with metadata({}) as server:
        spot.main("127.0.0.1:1", (spot.Aws(server), spot.Google(server), spot.Aws("http://127.0.0.1:1")))
    assert "not a spot machine" in capsys.readouterr().out


def test_without_a_node_of_ray_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spot, "node_id", lambda: None)
    assert not spot.watch(spot.Google("http://127.0.0.1:1"), "127.0.0.1:1")


def in_use(address: str, node_id: str) -> bool:
    """Whether Ray would put work on a node. One that has none is let go of as soon as it is told to drain."""
    from ray._private.state import GlobalState
    from ray._raylet import GcsClientOptions  # type: ignore[attr-defined]

    state = GlobalState()
    state._initialize_global_state(GcsClientOptions.create(address, None, True, False))
    alive = {node["NodeID"] for node in state.node_table() if node["Alive"]}
    return node_id in alive and node_id not in state.get_draining_nodes()


def test_ray_hears_of_the_end() -> None:
    """On a cluster of its own: the node is not used any more afterwards."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        going = cluster.add_node(num_cpus=1, dashboard_agent_listen_port=None)
        assert in_use(cluster.address, going.node_id)
        told = {f"{AWS}instance-life-cycle": "spot", f"{AWS}spot/instance-action": in_seconds(100)}
        with metadata(told) as server, pytest.MonkeyPatch.context() as patch:
            patch.setattr(spot, "node_id", lambda: going.node_id)  # two nodes are on this machine
            assert spot.watch(spot.Aws(server), cluster.address)
        end = time.monotonic() + 30
        while in_use(cluster.address, going.node_id):
            assert time.monotonic() < end, "Ray goes on using the node"
            time.sleep(0.2)
    finally:
        cluster.shutdown()

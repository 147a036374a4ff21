"""A head that asks for the token: who has none is told nothing."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.timeout(400)  # a head starts in six seconds on an idle machine
CALLS = ["/api/jobs/", "/api/version", "/nodes?view=summary", "/api/v0/tasks"]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def status(url: str, token: str | None) -> int:
    headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def wait_for(url: str, head: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert head.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise AssertionError(log.read_text())


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A head with processes, ports, a temporary folder and a home of its own."""
    folder = tmp_path_factory.mktemp("head")
    token = folder / ".ray/auth_token"
    token.parent.mkdir()
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env |= {"HOME": str(folder), "RAY_AUTH_MODE": "token"}
    ray = [str(Path(sys.executable).parent / "ray")]
    subprocess.run([*ray, "get-auth-token", "--generate"], env=env, check=True, capture_output=True)
    port = free_port()
    # Sockets have short names: Ray's folder cannot lie below pytest's.
    temp = Path(f"/tmp/raylab-head-{os.getpid()}")
    options = ["--head", "--block", f"--port={free_port()}", f"--dashboard-port={port}", "--dashboard-host=127.0.0.1"]
    options += [f"--temp-dir={temp}", "--num-cpus=1", "--object-store-memory=80000000", "--disable-usage-stats"]
    options += [f"--dashboard-agent-listen-port={free_port()}", "--ray-client-server-port", str(free_port())]
    log = folder / "log"
    with log.open("wb") as out:
        started = subprocess.Popen([*ray, "start", *options], env=env, stdout=out, stderr=out)
    try:
        wait_for(f"http://127.0.0.1:{port}/api/version", started, log)
        yield f"http://127.0.0.1:{port}", token.read_text()
    finally:
        family = psutil.Process(started.pid).children(recursive=True) if started.poll() is None else []
        started.kill()
        started.wait()
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family, timeout=30)  # what still lives would write into the folder anew
        shutil.rmtree(temp, ignore_errors=True)


@pytest.mark.parametrize("call", CALLS)
def test_without_the_token_a_request_is_refused(head, call):
    address, _ = head
    assert status(address + call, None) == 401


def test_a_wrong_token_is_refused(head):
    address, token = head
    assert status(f"{address}/api/jobs/", "0" * len(token)) in (401, 403)


@pytest.mark.parametrize("call", CALLS)
def test_with_it_the_same_request_is_answered(head, call):
    address, token = head
    assert status(address + call, token) == 200

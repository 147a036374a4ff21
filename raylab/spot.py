"""Tells Ray that this machine is to go: `python -m raylab.spot HEAD_ADDRESS`, which cluster/node.sh starts on workers.

A cloud announces the end of a spot machine to that machine alone: AWS two minutes before, in its instance metadata
(IMDSv2, `spot/instance-action`), Google Cloud 30 seconds before (`instance/preempted`). Told of it by `ray drain-node`,
Ray starts nothing more on the node, and a training run saves at once (docs/faults.md, Preemption). On a machine that is
not a spot machine the watch ends at once, in no cloud after a minute: a cloud's server may be late when a machine
starts. Whatever a server answers, the watch goes on.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

import psutil

POLL_SECONDS = 2.0
ANSWER_SECONDS = 2.0
"""Metadata servers are on the machine's own host: what takes longer is not there."""
START_SECONDS = 60.0
"""So long a machine is asked which cloud it is in, where no server says anything that can be understood."""
DRAIN_SECONDS = 20.0
"""For `ray drain-node`, which imports Ray; then it is tried again."""


class Cloud(Protocol):
    """Where a machine hears of its end."""

    def spot(self) -> bool | None:
        """Return whether this is a spot machine of this cloud; None where its server says nothing sensible."""

    def seconds_left(self) -> float | None:
        """Return the seconds until the machine goes, None while nothing is announced."""


@dataclass
class Aws:
    """Amazon's instance metadata, version 2: each answer wants a session's token."""

    server: str = "http://169.254.169.254"

    def spot(self) -> bool | None:
        """See `Cloud`."""
        return {"spot": True, "on-demand": False, "scheduled": False, "capacity-block": False}.get(
            self._get("instance-life-cycle") or ""
        )

    def seconds_left(self) -> float | None:
        """See `Cloud`."""
        try:
            action = json.loads(self._get("spot/instance-action") or "null")
            end = datetime.fromisoformat(action["time"].replace("Z", "+00:00"))
            return max(0.0, end.timestamp() - time.time())
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
            return None  # there is no notice, or it was not understood: it is asked for again

    def _get(self, name: str) -> str | None:
        life = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
        token = _answer(urllib.request.Request(f"{self.server}/latest/api/token", headers=life, method="PUT"))
        if token is None:
            return None
        address = f"{self.server}/latest/meta-data/{name}"
        return _answer(urllib.request.Request(address, headers={"X-aws-ec2-metadata-token": token}))


@dataclass
class Google:
    """Google Cloud's instance metadata."""

    server: str = "http://metadata.google.internal"
    notice_seconds: float = 30.0
    """From the announcement to the end, as Google documents."""

    def spot(self) -> bool | None:
        """See `Cloud`."""
        return {"TRUE": True, "FALSE": False}.get(self._get("scheduling/preemptible") or "")

    def seconds_left(self) -> float | None:
        """See `Cloud`."""
        return self.notice_seconds if self._get("preempted") == "TRUE" else None

    def _get(self, name: str) -> str | None:
        address = f"{self.server}/computeMetadata/v1/instance/{name}"
        return _answer(urllib.request.Request(address, headers={"Metadata-Flavor": "Google"}))


def _answer(request: urllib.request.Request) -> str | None:
    """Return a server's answer, None where there is none, it does not know or what comes is no text of HTTP."""
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
            return answer.read(10_000).decode().strip()
    except (OSError, http.client.HTTPException, ValueError):
        return None


def node_id() -> str | None:
    """Return the id of the Ray node on this machine, from its raylet's command line; None where none is running."""
    for process in psutil.process_iter(["cmdline"]):
        program, *options = process.info["cmdline"] or [""]
        if Path(program).name == "raylet":
            return next(option.partition("=")[2] for option in options if option.startswith("--node_id="))
    return None


def watch(cloud: Cloud, address: str) -> bool:
    """Wait for the end of this machine, and tell Ray; return False where Ray had ended on it before.

    Args:
        cloud: where the end is announced.
        address: the head's, as host:port.
    """
    while (node := node_id()) is not None:
        seconds = cloud.seconds_left()
        if seconds is not None and drain(node, address, seconds):
            return True
        time.sleep(POLL_SECONDS)
    return False


def drain(node: str, address: str, seconds: float) -> bool:
    """Tell Ray that a node goes in so many seconds; return whether Ray took it, in time."""
    ray = str(Path(sys.executable).with_name("ray"))  # that of this environment, whatever the PATH
    line = [ray, "drain-node", "--address", address, "--node-id", node, "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    line += ["--reason-message", "its cloud takes the spot machine back"]
    line += ["--deadline-remaining-seconds", f"{seconds:.0f}"]
    try:
        return subprocess.run(line, check=False, timeout=DRAIN_SECONDS).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def find(clouds: tuple[Cloud, ...]) -> Cloud | None:
    """Return the cloud that this is a spot machine of; None where one says that it is not, or none says anything."""
    until = time.monotonic() + START_SECONDS
    while True:
        said = [(cloud, cloud.spot()) for cloud in clouds]
        if any(spot is not None for _, spot in said) or time.monotonic() > until:
            return next((cloud for cloud, spot in said if spot), None)
        time.sleep(POLL_SECONDS)


def main(address: str, clouds: tuple[Cloud, ...] = (Aws(), Google())) -> None:
    """Watch in the cloud that this is a spot machine of."""
    found = find(clouds)
    if found is None:
        print("not a spot machine: nothing to watch", flush=True)
        return
    print(f"{type(found).__name__}: watching for the end of this spot machine", flush=True)
    print("told Ray of the end" if watch(found, address) else "no Ray node is running here any more", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])

"""A real head with one of Ray's autoscalers, whose new nodes are processes of this machine."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FAKE_HEAD_NODE_TYPE

PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
"""Named as a module, as Ray's wheel lacks what its name `fake_multinode` wants."""
BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def cluster_file(address: str) -> dict:
    """What `ray up` would leave on the head: drivers alone there, and one kind of worker with GPUs.

    The head's kind has the name by which the provider knows it: by another, Ray's first autoscaler misses its head
    (`_add_min_workers_nodes` in its resource_demand_scheduler) and starts a second node of that kind.
    """
    provider = {"type": "external", "module": PROVIDER, "head_node_id": FAKE_HEAD_NODE_ID, "launch_multiple": True}
    return {
        "cluster_name": "growing",
        "max_workers": 2,
        "idle_timeout_minutes": 10,
        "upscaling_speed": 1.0,
        "provider": provider | {"gcs_address": address},
        "auth": {},
        "docker": {},
        "initialization_commands": [],
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        "available_node_types": {
            FAKE_HEAD_NODE_TYPE: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "gpu": {"resources": {"CPU": 2, "GPU": 4}, "node_config": {}, "min_workers": 0, "max_workers": 2},
        },
        "head_node_type": FAKE_HEAD_NODE_TYPE,
    }


def wait_for(reached: Callable[[], bool], seconds: float, why: Callable[[], str]) -> None:
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, why()
        time.sleep(0.2)


def listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as knock:
        return knock.connect_ex((host, int(port))) == 0


@dataclass
class Head:
    """A head that is up."""

    address: str
    file: Path
    env: dict[str, str]

    def report(self) -> None:
        """Do what node.sh does once the head is there."""
        self.python("-m", "raylab.ceiling", str(self.file), self.address)

    def python(self, *words: str, timeout: float = 60) -> str:
        """Run Python as a job of this cluster would; return what it printed."""
        line = [sys.executable, *words]
        done = subprocess.run(
            line, env=self.env, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@contextlib.contextmanager
def head(folder: Path, second: bool, up: bool = True) -> Iterator[Head]:
    """Start a head and end it with all its nodes.

    Args:
        folder: for its file and log.
        second: by Ray's second autoscaler, else by its first.
        up: as `ray up` and KubeRay start it, with a file and a named kind of node; else as `ray start` alone does.
    """
    port, temp = free_port(), Path(f"/tmp/raylab-grow-{os.getpid()}-{int(second)}{int(up)}")
    address = f"{socket.gethostbyname(socket.gethostname())}:{port}"
    file = folder / "ray_bootstrap_config.yaml"
    file.write_text(json.dumps(cluster_file(address)))
    driver = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    driver |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_ADDRESS": address}
    env = {name: value for name, value in driver.items() if name != "RAY_ADDRESS"}
    env |= {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1", "RAY_enable_autoscaler_v2": str(int(second))}
    options = ["--head", "--block", f"--port={port}", f"--temp-dir={temp}", "--num-cpus=0", "--include-dashboard=false"]
    options += ["--object-store-memory=80000000", "--disable-usage-stats", f"--ray-client-server-port={free_port()}"]
    options.append(f"--dashboard-agent-listen-port={free_port()}")
    if up:
        env |= {"RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID}
        env |= {"RAY_NODE_TYPE_NAME": FAKE_HEAD_NODE_TYPE}
        options.append(f"--autoscaling-config={file}")
    log = folder / "log"
    with log.open("wb") as out:
        started = subprocess.Popen([BIN / "ray", "start", *options], env=env, stdout=out, stderr=out)
    try:
        wait_for(lambda: listens(address), 120, log.read_text)
        yield Head(address, file, driver)
    finally:
        _end(started, temp)
        shutil.rmtree(temp, ignore_errors=True)


def _end(started: subprocess.Popen[bytes], temp: Path) -> None:
    """End the head and the nodes that its autoscaler started: all that names its folder."""
    started.kill()
    started.wait()
    family = [
        one for one in psutil.process_iter(["cmdline"]) if any(str(temp) in word for word in one.info["cmdline"] or ())
    ]
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(family, timeout=30)

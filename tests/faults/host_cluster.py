"""Ray on hosts of their own: a head without room for work, and workers that join, die, are cut off and are drained.

The hosts share no disk: what a job reads and writes lies in a bucket, behind the bridge's address.
"""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from faults.bucket import Bucket
from faults.hosts import Host, Network, command_line

HEAD, WORKERS = 1, (2, 3)
"""The numbers of the hosts."""
CPUS = 2
"""Of a worker: room for a job that has no other."""
STORE_BYTES = 128 * 2**20
S3_PORT, RAY_PORT = 9000, 6379
BUCKET = "shared"
NOTICED_SOON = {
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "4",
}
"""A head's: a host that is cut off is given up after some 8 seconds. By default that takes some 40."""


@dataclass
class Cluster:
    """The hosts, Ray on some of them, and the bucket. `env` is that of all processes on them."""

    network: Network
    env: dict[str, str]
    bucket: Bucket

    @property
    def head(self) -> Host:
        """The first host: Ray's head and the drivers of jobs."""
        return self.network.host(HEAD)

    def host(self, number: int) -> Host:
        """Return a host."""
        return self.network.host(number)

    def start_head(self) -> None:
        """Start a head, of a new cluster."""
        self._ray(self.head, ["start", "--head", f"--port={RAY_PORT}", "--num-cpus=0", "--include-dashboard=false"])

    def join(self, number: int, cpus: int = CPUS) -> Host:
        """Start a worker node on a host, where an earlier one is stopped; it belongs to the cluster on return."""
        host = self.host(number)
        host.kill()
        self._ray(host, ["start", f"--address={self.head.address}:{RAY_PORT}", f"--num-cpus={cpus}"])
        return host

    def _ray(self, host: Host, arguments: list[str]) -> None:
        of_node = ["--disable-usage-stats", f"--node-ip-address={host.address}", f"--object-store-memory={STORE_BYTES}"]
        self.run(host, ["ray", *arguments, *(of_node if arguments[0] == "start" else ())])

    def run(self, host: Host, command: Sequence[str]) -> None:
        """Run a command on a host to its end, which must be a good one."""
        # in a file: what a command leaves running would hold a pipe open
        log = self.network.folder / "command.log"
        with log.open("w") as out:
            line = host.line(command)
            done = subprocess.run(line, env=self.env, stdout=out, stderr=out, timeout=120, check=False)
        assert done.returncode == 0, f"{command} on {host.name}\n{log.read_text()}"

    def shape(self, cpus: dict[int, int]) -> None:
        """See to it that there is a head, and that just these hosts are workers, with so many CPUs."""
        if not self.head.running("gcs_server"):
            for host in self.network.hosts.values():
                host.kill()
            self.start_head()
        for number in WORKERS:
            if number not in cpus:
                self.host(number).kill()
            elif cpus[number] != self._cpus(number):
                self.join(number, cpus[number])

    def _cpus(self, number: int) -> int | None:
        """Return the CPUs of a host's Ray node, None where there is none."""
        found = re.search(r"--static_resource_list=\S*CPU,([\d.]+)", self._raylet(number))
        return int(float(found[1])) if found else None

    def _raylet(self, number: int) -> str:
        lines = map(command_line, self.host(number).processes())
        return next((line for line in lines if "/raylet/raylet " in line), "")

    def drain(self, number: int, seconds: int) -> None:
        """Say that a host will go in so many seconds, as a cloud's autoscaler does for a spot machine."""
        found = re.search(r"--node_id=(\w+)", self._raylet(number))
        assert found, "no Ray there"
        reason = ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=called back"]
        where = [f"--address={self.head.address}:{RAY_PORT}", f"--node-id={found[1]}"]
        self._ray(self.head, ["drain-node", *where, *reason, f"--deadline-remaining-seconds={seconds}"])

    def start(self, line: Sequence[str], log: Path) -> psutil.Popen:
        """Start a job on the head's host, as `ray job submit` does; what it prints is added to the log."""
        env = self.env | {"RAY_ADDRESS": f"{self.head.address}:{RAY_PORT}"}
        with log.open("a") as out:
            return psutil.Popen(self.head.line(line), env=env, stdout=out, stderr=out)

    def lose_head(self, driver: psutil.Popen) -> None:
        """End Ray on the head's host; the job's own process stays, as where it runs on another host."""
        self.head.kill(besides=[driver.pid])


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Make the hosts and serve the bucket; Ray is started by `Cluster.shape`."""
    pytest.importorskip("moto.server")
    with Network() as network, Bucket(network.gateway, S3_PORT) as bucket:
        try:
            yield Cluster(network, _environment(network), bucket)
        finally:
            for host in network.hosts.values():
                host.kill()  # whoever still asks the server would keep it


def _environment(network: Network) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_"))}
    return kept | NOTICED_SOON | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": "/tmp",
        "XDG_CACHE_HOME": "/tmp/cache",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_prestart_worker_first_driver": "0",
        "RAY_worker_niceness": "0",
        **storage(network),
    }  # fmt: skip


def storage(network: Network) -> dict[str, str]:
    """Return by which environment the bucket is found."""
    return {
        "AWS_ENDPOINT_URL": f"http://{network.gateway}:{S3_PORT}",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def wait(until: Callable[[], bool], seconds: float, why: str, process: psutil.Popen | None = None) -> bool:
    """Wait for something; return False where the process ended before. `why` is said where it takes too long."""
    deadline = time.monotonic() + seconds
    while not until():
        if process is not None and process.poll() is not None:
            return False
        assert time.monotonic() < deadline, f"not within {seconds} s: {why}"
        time.sleep(0.05)
    return True

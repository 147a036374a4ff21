"""From `ray job submit` to the first labelled row on a cluster that is up, and where the time goes.

    .venv/bin/python bench/submit_latency.py [rounds]        # 4; the first one finds no package of ours in the cluster

A head with dashboard and token, as `cluster/node.sh` starts it, on ports of its own; then the line of docs/cluster.md:
``ray job submit --working-dir . -- python jobs/label.py --recipe miniworld ...``, 2,000 rows. Marks come from files as
they appear, from the job's and the actors' records in Ray, and from the run's own ``clock.json``.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import pyarrow.parquet as pq

ROWS = 2_000
POLL_S = 0.05
STEPS = ("mentions", "candidates", "link", "select")
PARTS = {
    "command to accepted": ("started", "accepted"),
    "supervisor, working directory": ("accepted", "driver"),
    "driver's imports and flags": ("driver", "began"),
    "source, knowledge base, ray.init": ("began", "ray"),
    "pipeline, actors, models": ("ray", "alive"),
    "reading and the first batch": ("alive", "piece"),
    "first commit": ("piece", "commit"),
}
"""What lies between which marks."""


class Head:
    """A head of our own: a folder, ports and a token that nobody else has."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.url = folder, f"http://127.0.0.1:{free_port()}"
        # Sockets have short names: Ray's folder cannot lie deep.
        self.temporary = Path(f"/tmp/raylab-submit-{os.getpid()}")
        clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.env = clean | {"HOME": str(folder), "RAY_AUTH_MODE": "token", "RAY_API_SERVER_ADDRESS": self.url}
        self.env["PATH"] = f"{Path(sys.executable).parent}:{self.env['PATH']}"

    def __enter__(self) -> Head:
        subprocess.run(["ray", "get-auth-token", "--generate"], env=self.env, check=True, capture_output=True)
        options = [f"--port={free_port()}", f"--dashboard-port={self.url.rpartition(':')[2]}", "--num-cpus=2"]
        options += [f"--temp-dir={self.temporary}", f"--dashboard-agent-listen-port={free_port()}", "--block"]
        options += [
            "--object-store-memory=300000000",
            "--disable-usage-stats",
            f"--ray-client-server-port={free_port()}",
        ]
        line = ["ray", "start", "--head", "--dashboard-host=127.0.0.1", *options]
        self.process = subprocess.Popen(line, env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while self.ask("/api/jobs/") is None:
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise SystemExit("the head did not start")
            time.sleep(0.5)
        time.sleep(10)  # its agents start: the cluster is to be warm
        return self

    def __exit__(self, *_: object) -> None:
        family = psutil.Process(self.process.pid).children(recursive=True)
        self.process.terminate()
        psutil.wait_procs(family, timeout=20)
        for one in family:
            if one.is_running():
                one.kill()
        self.process.wait()
        shutil.rmtree(self.temporary, ignore_errors=True)

    def ask(self, path: str) -> Any:
        """Return the dashboard's JSON, None where it does not answer."""
        import urllib.request

        token = (self.folder / ".ray/auth_token").read_text()
        request = urllib.request.Request(self.url + path, headers={"Authorization": f"Bearer {token}"})
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return json.loads(answer.read())
        except OSError:
            return None


def free_port() -> int:
    """Return a port that nobody uses now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def once(head: Head, kb: str, out: Path) -> dict[str, Any]:
    """Submit the job; return when what was there."""
    line = ["ray", "job", "submit", "--working-dir", ".", "--", "python", "jobs/label.py", "--recipe", "miniworld"]
    line += ["--source", f"miniworld://?rows={ROWS}&seed=331", "--kb", kb, "--out", str(out)]
    before = os.getloadavg()[0]
    marks = {"started": time.time()}
    process = subprocess.Popen(line, env=head.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    first: dict[str, float] = {}
    while process.poll() is None:
        watch(out, marks, first)
        time.sleep(POLL_S)
    if process.returncode:
        raise SystemExit("the job failed")
    clock = json.loads((out / "clock.json").read_text())
    marks |= {"began": clock["began"], "ray": clock["began"] + clock["ray"], "ended": time.time()}
    marks["accepted"] = max(one["start_time"] for one in head.ask("/api/jobs/")) / 1000
    marks["alive"] = alive(head, marks["ray"])
    parts = {name: marks[end] - marks[start] for name, (start, end) in PARTS.items()}
    return {
        "first_row_s": marks["piece"] - marks["started"],
        "first_commit_s": marks["commit"] - marks["started"],
        "whole_s": marks["ended"] - marks["started"],
        "parts": parts,
        "first_batch": first,
        "load_before": round(before, 2),
    }


def watch(out: Path, marks: dict[str, float], first: dict[str, float]) -> None:
    """Note the first time that the driver, a piece and a commit are seen."""
    if "driver" not in marks:
        for process in psutil.process_iter(["cmdline", "create_time"]):
            words = process.info["cmdline"] or []
            if str(out) in words and words[1:2] == ["jobs/label.py"]:
                marks["driver"] = process.info["create_time"]
        return
    if "piece" not in marks and (pieces := list(out.glob("pieces/*.parquet"))):
        marks["piece"] = time.time()
        rows = pq.read_table(pieces[0])
        first |= {"rows": rows.num_rows}
        first |= {name: sum(rows[f"seconds_{name}"].to_pylist()) for name in STEPS}
    if "commit" not in marks and any(out.glob("segments/*.json")):
        marks["commit"] = time.time()


def alive(head: Head, after: float) -> float:
    """Return when the first actor of the pool had loaded its models."""
    found = head.ask("/logical/actors?nocache=1")["data"]["actors"].values()
    started = [int(one["startTime"]) / 1000 for one in found if "MapWorker" in one["actorClass"]]
    return min(when for when in started if when > after)


def main(rounds: int = 4) -> None:
    """Measure and print the JSON."""
    found = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        kb = str(folder / "kb")
        build = [sys.executable, "jobs/build_kb.py", "--catalogues", "miniworld://", "--out", kb]
        subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
        with Head(folder) as head:
            for index in range(rounds):
                found.append(once(head, kb, folder / f"out{index}"))
                print(json.dumps(found[-1]), file=sys.stderr)
    later = found[1:] or found
    result = {
        "first_row_s": median(one["first_row_s"] for one in later),
        "first_commit_s": median(one["first_commit_s"] for one in later),
        "parts": {name: median(one["parts"][name] for one in later) for name in PARTS},
        "first_submit": found[0]["first_row_s"],
        "rows": ROWS,
        "rounds": found,
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "versions": {name: version(name) for name in ("ray", "torch", "spacy", "pyarrow")},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

"""Runs the labeling job as a process of its own and kills parts of it."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from raylab.label.store import LabelStore

ROOT = Path(__file__).parents[2]
ROWS = 2000
TARGETS = {"driver": "", "actor": "ray::MapWorker", "worker": "ray::"}
"""What is killed -> how its process's title begins."""
UNFINISHED = ("pieces/", "answers/", "grouped/")
"""Where rows lie that are under way."""


def job(kb: str, out: str) -> list[str]:
    """Return the command line of a mini-world run of four segments."""
    source = f"miniworld://?rows={ROWS}&seed=11"
    return [sys.executable, "jobs/label.py", "--recipe", "miniworld", "--source", source, "--kb", kb, "--out", out]


def start(line: list[str], out: str) -> psutil.Popen:
    """Start a job in a process group of its own, output to a file beside `out`."""
    with Path(out + ".log").open("a") as log:
        return psutil.Popen(line, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)


def finish(process: psutil.Popen, out: str, seconds: float = 170) -> None:
    """Wait until the job ends well; fail with what it printed otherwise."""
    try:
        status = process.wait(seconds)
    except psutil.TimeoutExpired:
        end(process)
        status = f"still running after {seconds} s"
    assert status == 0, f"{status}\n{Path(out + '.log').read_text()[-4000:]}"


def end(process: psutil.Popen) -> None:
    """Kill the job and whatever it started."""
    children = process.children(recursive=True) if process.is_running() else []
    for one in [process, *children]:
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs([process, *children], timeout=20)


def progress(out: str) -> float:
    """Return how far the run is: the share of its segments that are committed, a piece counting a little."""
    commits = len(list(Path(out, "segments").glob("*.json"))) if Path(out, "segments").is_dir() else 0
    pieces = len(list(Path(out, "pieces").glob("*.parquet"))) if Path(out, "pieces").is_dir() else 0
    return (commits + min(pieces, 1) * 0.5) / (ROWS / 500)


def kill_at(process: psutil.Popen, victim: str, reached: Callable[[], bool], rng: random.Random) -> bool:
    """SIGKILL one of the job's processes when the run is so far; return False if it was over before.

    `victim` is how the title of the process begins; empty for the driver.
    """
    deadline = time.monotonic() + 300
    while not reached():
        if process.poll() is not None or time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    time.sleep(rng.uniform(0, 0.5))
    if not victim:
        kill_driver(process)
        return True
    victims = [child for child in process.children(recursive=True) if title(child).startswith(victim)]
    if not victims:
        return False
    rng.choice(sorted(victims, key=lambda child: child.pid)).kill()
    return True


def kill_driver(process: psutil.Popen) -> None:
    """SIGKILL the driver alone, and wait until the Ray that it had started has gone with it."""
    children = process.children(recursive=True)
    process.kill()
    process.wait(20)
    _, left = psutil.wait_procs(children, timeout=40)
    for one in left:
        one.kill()
    psutil.wait_procs(left, timeout=10)


def title(process: psutil.Process) -> str:
    """Return a process's title; empty where it has gone."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def verdicts(out: str, more: tuple[str, ...] = ()) -> list[tuple[Any, ...]]:
    """Return every row id with its label or the reason of its rejection, and `more` of its columns, sorted.

    A doubled row would show.
    """
    store = LabelStore(out)
    found: list[tuple[Any, ...]] = []
    for part, verdict in ((store.labels(), "entity_id"), (store.rejects(), "reject_reason")):
        columns = ["row_id", verdict, *more]
        rows = part.to_table(columns=columns)
        found += zip(*(rows[name].to_pylist() for name in columns))
    return sorted(found, key=lambda row: [str(value) for value in row])


def leftovers(out: str) -> list[str]:
    """Return files of the run, on a disk or in a bucket, that no manifest names: pieces, orphans, temporary files."""
    folder = LabelStore(out).folder
    folder.fs.invalidate_cache()
    root = folder.path("")
    files = [path.removeprefix(root) for path in folder.fs.find(root)]
    manifest = folder.read_json("MANIFEST.json")
    named = {*manifest["labels"], *manifest["rejects"]}
    odd = [name for name in files if Path(name).name.startswith(".") or name.startswith(UNFINISHED)]
    parts = [name for name in files if name.startswith(("labels/", "rejects/"))]
    return sorted(odd + [name for name in parts if name not in named])


def build_kb(folder: Path) -> str:
    """Build the mini-world's knowledge base by its job, with its entity vectors, and return its path."""
    out = str(folder / "kb")
    command = [sys.executable, "jobs/build_kb.py", "--catalogues", "miniworld://", "--out", out]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    return out

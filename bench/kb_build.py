"""Build a knowledge base of 6.1 million entities and 20 million surfaces: time and memory, against 15 minutes and 6 GB.

    .venv/bin/python bench/kb_build.py --folder <somewhere with 8 GB> --out bench/results/kb_build.json

Runs jobs/build_kb.py in a process of its own on the catalogue of bench/synthetic_kb.py (made first, not timed) and
watches its whole tree. Memory is the peak of the sum of PSS: every page of every process once, mapped files included;
`anonymous` is the part that cannot be given back. Then it opens the result in fresh processes.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import tyro
from synthetic_kb import write

ROOT = Path(__file__).parents[1]
LIMIT_S, LIMIT_GB = 900.0, 6.0
OPEN = """
import sys, time
start = time.perf_counter()
from raylab.kb.catalog import Catalog
imported = time.perf_counter()
catalog = Catalog.open(sys.argv[1])
opened = time.perf_counter()
catalog.rows(["Q1000000"]), catalog.aliases.lookup(["Paris"])
print(imported - start, opened - imported, time.perf_counter() - opened)
"""


@dataclass(frozen=True)
class Config:
    """What is measured."""

    folder: str
    """Where the catalogue and the knowledge base go."""
    entities: int = 6_100_000
    workers: int = 2
    rounds: int = 1
    out: str | None = None
    """Where to keep the JSON."""


def memory_of(process: psutil.Process) -> tuple[int, int]:
    """Return the PSS and the anonymous bytes of a process and all below it."""
    pss = anonymous = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            lines = Path(f"/proc/{one.pid}/smaps_rollup").read_text().splitlines()
        except OSError:  # it has ended
            continue
        values = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines[1:]}
        pss += values["Pss"]
        anonymous += values["Anonymous"]
    return pss, anonymous


def build(catalogue: Path, out: Path, workers: int) -> dict[str, Any]:
    """Build once; return seconds, CPU seconds, peaks in bytes and the job's own summary."""
    command = [sys.executable, "jobs/build_kb.py", "--out", str(out), "--catalogues", str(catalogue)]
    before = os.times()
    start = time.perf_counter()
    job = subprocess.Popen([*command, "--workers", str(workers)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    peaks = [0, 0]
    for sample in watch(psutil.Process(job.pid), job):
        peaks = [max(peak, value) for peak, value in zip(peaks, sample)]
    seconds = time.perf_counter() - start
    after = os.times()
    if job.returncode or job.stdout is None:
        raise SystemExit(f"the job ended with status {job.returncode}")
    return {
        "seconds": seconds,
        "cpu_s": after.children_user + after.children_system - before.children_user - before.children_system,
        "peak_pss_gb": peaks[0] / 1e9,
        "peak_anonymous_gb": peaks[1] / 1e9,
        "summary": json.loads(job.stdout.read().splitlines()[-1]),
    }


def watch(process: psutil.Process, job: subprocess.Popen) -> Iterator[tuple[int, int]]:
    """Yield the job's memory five times a second until it ends."""
    while job.poll() is None:
        yield memory_of(process)
        time.sleep(0.2)


def open_seconds(kb: Path) -> list[float]:
    """Return the seconds to import, to open and to answer first questions in a fresh process."""
    done = subprocess.run([sys.executable, "-c", OPEN, str(kb)], cwd=ROOT, capture_output=True, text=True, check=True)
    return [float(value) for value in done.stdout.split()]


def main(config: Config) -> None:
    """Build, open, print the figures."""
    folder = Path(config.folder)
    catalogue = folder / f"synthetic-{config.entities}.jsonl"
    write(catalogue, config.entities)
    kb = folder / f"kb-{config.entities}"
    rounds = []
    for _ in range(config.rounds):
        rounds.append(build(catalogue, kb, config.workers) | {"load_average": os.getloadavg()[1]})
        print(rounds[-1], file=sys.stderr)
    opened = [open_seconds(kb) for _ in range(5)]
    seconds = statistics.median(one["seconds"] for one in rounds)
    peak = max(one["peak_pss_gb"] for one in rounds)
    sizes = {path.name: sum(f.stat().st_size for f in [path, *path.rglob("*")] if f.is_file()) for path in kb.iterdir()}
    report = {
        "ratio": min(LIMIT_S / seconds, LIMIT_GB / peak),
        "seconds": seconds,
        "peak_pss_gb": peak,
        "open_s": statistics.median(one[1] for one in opened),
        "opened": opened,
        "bytes": sizes,
        "rounds": rounds,
        "cpus": os.cpu_count(),
        "versions": {name: version(name) for name in ("numpy", "pyarrow", "scikit-learn")},
    }
    if config.out:
        Path(config.out).write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))

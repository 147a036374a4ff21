"""What the job costs beyond its steps: jobs/label.py against a bare loop over the same steps in two processes.

    .venv/bin/python bench/job_overhead.py [rows] [rounds]        # 20,000 rows, 3 interleaved rounds

Both are timed as whole processes, start-up and loading of models included; the loop keeps nothing, while the job reads
through Ray, commits, makes its second pass and writes card and report. Asked for: 0.85 of the loop's rows/s.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median

WORKERS = 2

LOOP = """
import sys
from raylab.label.step import StepContext
from raylab.recipes.label import miniworld
from raylab.schema import widen
from raylab.sources import open_source
from raylab.sources.base import SourceConfig

rows, kb, worker, workers = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
config = SourceConfig(uri=f"miniworld://?rows={rows}&seed=7")
source = open_source(config)
steps = [step.build(StepContext(kb=kb, source=config)) for step in miniworld().step_configs().values()]
labelled = 0
for shard in source.shards()[worker::workers]:
    for chunk in source.read(shard):
        batch = widen(chunk)
        for step in steps:
            batch = step(batch)
        labelled += batch["reject_reason"].null_count
print(labelled)
"""


def loop(rows: int, kb: str) -> float:
    """Run the steps in two processes over half the shards each; return seconds."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # as Ray sets it for an actor
    started = time.perf_counter()
    arguments = [[sys.executable, "-c", LOOP, str(rows), kb, str(i), str(WORKERS)] for i in range(WORKERS)]
    processes = [subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL) for line in arguments]
    if any(process.wait() for process in processes):
        raise SystemExit("the loop failed")
    return time.perf_counter() - started


def job(rows: int, kb: str, out: str) -> float:
    """Run the job; return seconds."""
    started = time.perf_counter()
    line = [sys.executable, "jobs/label.py", "--recipe", "miniworld", "--kb", kb, "--out", out]
    subprocess.run([*line, "--source", f"miniworld://?rows={rows}&seed=7"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main(rows: int = 20_000, rounds: int = 3) -> None:
    """Measure in turn and print the JSON."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        kb = str(Path(folder) / "kb")
        build = [sys.executable, "jobs/build_kb.py", "--catalogues", "miniworld://", "--out", kb]
        subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
        loop(500, kb)  # computes the entity vectors, so that neither side has them to make
        for i in range(rounds):
            one = {"loop_s": loop(rows, kb), "job_s": job(rows, kb, str(Path(folder) / f"out{i}"))}
            found.append(one | {"ratio": one["loop_s"] / one["job_s"]})
            print(one, file=sys.stderr)
    result = {
        "ratio": median(one["ratio"] for one in found),
        "asked": 0.85,
        "loop_rows_per_s": rows / median(one["loop_s"] for one in found),
        "job_rows_per_s": rows / median(one["job_s"] for one in found),
        "rows": rows,
        "rounds": found,
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "versions": {name: version(name) for name in ("ray", "torch", "spacy", "pyarrow")},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

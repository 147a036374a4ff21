"""MOFI's multi-task model against its supervised half alone, over more seeds than `make effects` has.

    .venv/bin/python bench/effects/multitask.py [seeds] [rows] [steps]     # 6 seeds, 3,000 rows, 1,000 steps

Worlds, arms and measure are those of `bench/effects`. One JSON line: retrieval mAP of both arms for each seed, and the
mean of the differences with its standard error.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from statistics import mean, stdev

import worlds

FIRST_SEED = 321
TEST_ROWS = 2_000
ARMS = ("supervised", "multitask")
HERE = Path(__file__).parent


def run_arm(name: str, world: worlds.World, kb: Path, steps: int) -> float:
    """Train and score an arm in a process of its own; return its mAP in points."""
    out = world.folder / "runs" / name
    line = [sys.executable, str(HERE / "arms.py"), name, str(world.folder), str(kb), str(out), str(steps)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*line, str(world.seed)], capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr[-3000:]}")
    return 100 * json.loads(done.stdout.splitlines()[-1])["scores"]["mAP"]


def main(seeds: int = 6, rows: int = 3_000, steps: int = 1_000) -> None:
    """Run both arms of all seeds, two at a time; print the JSON."""
    found: dict[str, list[float]] = {arm: [] for arm in ARMS}
    with tempfile.TemporaryDirectory() as folder:
        kb = Path(folder) / "kb"
        worlds.build_kb(kb)
        for seed in range(FIRST_SEED, FIRST_SEED + seeds):
            world = worlds.select(Path(folder) / str(seed), kb, seed, rows, TEST_ROWS)
            with ThreadPoolExecutor(2) as pool:
                running = {arm: pool.submit(run_arm, arm, world, kb, steps) for arm in ARMS}
                for arm, values in found.items():
                    values.append(running[arm].result())
            print(seed, {arm: round(values[-1], 1) for arm, values in found.items()}, file=sys.stderr, flush=True)
    gains = [multitask - supervised for multitask, supervised in zip(found["multitask"], found["supervised"])]
    result = {
        "figure": "multi-task above supervised, retrieval mAP, points",
        "gain": mean(gains),
        "standard_error": stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else None,
        "gains": gains,
        "mAP": found,
        "rows": rows,
        "steps": steps,
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "versions": {name: version(name) for name in ("torch", "open-clip-torch")},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

"""The search's claims in miniature (arXiv 1809.04184): the best cell against ASPP, near-best against uniform sampling.

    .venv/bin/python bench/effects/cells.py [seeds] [cells] [--out DIR]     # 3, 200 cells: some 40 minutes a seed

Cut off, the same line with --out goes on: a search with the cells that are not tried (seconds are the last part's).

For each seed a backbone learns on one world; cells are tried on another one, by both samplers with the same number of
cells; the best five of near-best sampling and ASPP are then trained in full with the same steps, and scored on a third
world. A cell counts against ASPP with at most 0.6 of its weights.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from kept import arguments, study

FIRST_SEED = 411
SHARE = 0.6
"""Of ASPP's weights."""
ROOT = Path(__file__).parents[2]


def search(out: Path, seed: int, cells: int, *flags: str) -> dict[str, Any]:
    """Run jobs/search.py; return its summary."""
    line = [sys.executable, str(ROOT / "jobs/search.py"), "--recipe", "dpc_search_miniworld", "--out", str(out)]
    line += ["--seed", str(seed), "--full.seed", str(seed), "--cells", str(cells), "--full.track.project", ""]
    line += [
        "--full.train",
        f"miniworld://?rows=2000&seed={seed}",
        "--full.val",
        f"miniworld://?rows=300&seed={seed + 50}",
    ]
    line += ["--backbone-train", f"miniworld://?rows=2000&seed={seed + 100}", *flags]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"seed {seed}: {done.stderr[-3000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(found), file=sys.stderr, flush=True)
    return found


def of_seed(folder: Path, seed: int, cells: int) -> dict[str, Any]:
    """Return one seed's scores."""
    near = search(folder / f"near-{seed}", seed, cells)
    backbone = folder / f"near-{seed}/backbone/model"
    uniform = search(
        folder / f"uniform-{seed}",
        seed,
        cells,
        *("--sampler.kind", "uniform", "--top", "0", "--compare"),
        *("--full.task.encoder.weights", str(backbone)),
    )
    aspp = near["full"]["aspp"]
    others = {name: one for name, one in near["full"].items() if name != "aspp"}
    small = [one for one in others.values() if one["weights"] <= SHARE * aspp["weights"]]
    best = max(small, key=lambda one: one["miou"], default=None)
    return {
        "seed": seed,
        "proxy near best": near["proxy_miou"],
        "proxy uniform": uniform["proxy_miou"],
        "aspp": aspp["miou"],
        "best cell": max(one["miou"] for one in others.values()),
        "best small cell": best["miou"] if best else None,
        "weights": best["weights"] / aspp["weights"] if best else None,
        "rho": near["fidelity"]["rho"],
        "cells_an_hour": near.get("cells_an_hour"),
    }


def main(numbers: list[int], out: Path | None) -> None:
    """Run all seeds; print the table and the JSON."""
    seeds, cells = numbers
    started = time.perf_counter()
    with study(out) as folder:
        rounds = [of_seed(folder, seed, cells) for seed in range(FIRST_SEED, FIRST_SEED + seeds)]
    gains = {
        "best small cell over aspp": [100 * (one["best small cell"] - one["aspp"]) for one in rounds if one["weights"]],
        "near best over uniform (proxy)": [100 * (one["proxy near best"] - one["proxy uniform"]) for one in rounds],
    }
    for claim, values in gains.items():
        middle, spread = (mean(values) if values else float("nan")), (stdev(values) if len(values) > 1 else 0.0)
        print(f"{claim:<34}{middle:>8.2f}{spread:>8.2f}  (points of mIoU, {len(values)} seeds)")
    result = {
        "gains": gains,
        "asked": {"best small cell over aspp": 0.6, "share of weights": SHARE},
        "rounds": rounds,
        "cells": cells,
        "seconds": round(time.perf_counter() - started),
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "versions": {name: version(name) for name in ("ray", "torch", "timm")},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(*arguments(sys.argv[1:], 3, 200))

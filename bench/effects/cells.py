"""The search's claims in miniature (arXiv 1809.04184): the best cell against ASPP, near-best against uniform sampling.

    .venv/bin/python bench/effects/cells.py [seeds] [cells] [first seed] [--out DIR]     # 3, 200 cells, 411

Cut off, the same line with --out goes on: a search with the cells that are not tried (seconds are the last part's).
Seeds can run side by side as lines of one seed each; that of all seeds, with the same --out, joins them.

For each seed a backbone learns on one world; cells are tried on another one, by both samplers with the same number of
cells; the best five of near-best sampling and ASPP are then trained in full with the same steps, and scored on a third
world. A cell counts against ASPP with at most 0.6 of its weights. The best of five is partly luck, so that cell and
ASPP are trained once more on a fourth world and scored on a fifth: that difference is the claim's.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from kept import arguments, kept, study

from raylab.recipes.search import SEARCH

FIRST_SEED = 411
SHARE = 0.6
"""Of ASPP's weights."""
CLAIM = "best small cell over aspp"
FULL_STEPS = SEARCH["dpc_search_miniworld"]().full.steps
ROOT = Path(__file__).parents[2]


def run(job: str, recipe: str, out: Path, *flags: str) -> dict[str, Any]:
    """Run a job; return its summary."""
    line = [sys.executable, str(ROOT / f"jobs/{job}.py"), "--recipe", recipe, "--out", str(out), *flags]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{out}: {done.stderr[-3000:]}")
    print(done.stdout.splitlines()[-1], file=sys.stderr, flush=True)
    return json.loads(done.stdout.splitlines()[-1])


def world(rows: int, seed: int) -> str:
    """Return the address of drawn scenes."""
    return f"miniworld://?rows={rows}&seed={seed}"


def search(out: Path, seed: int, cells: int, *flags: str) -> dict[str, Any]:
    """Try cells; return the search's summary."""
    line = ["--seed", str(seed), "--full.seed", str(seed), "--cells", str(cells), "--full.track.project", ""]
    line += ["--full.train", world(2_000, seed), "--full.val", world(300, seed + 50)]
    line += ["--backbone-train", world(2_000, seed + 100)]
    return run("search", "dpc_search_miniworld", out, *line, *flags)


def train_anew(folder: Path, seed: int, cell: str) -> float:
    """Train a cell as the search's full training does, with another seed on another world; return the mIoU.

    Args:
        folder: of the search.
        seed: of the search.
        cell: its name or file.
    """
    out = folder / "anew" / Path(cell).stem
    line = ["--task.head.cell", cell, "--task.encoder.weights", str(folder / "backbone/model")]
    line += ["--train", world(2_000, seed + 200), "--val", world(300, seed + 250)]
    line += ["--steps", str(FULL_STEPS), "--seed", str(seed + 1), "--track.project", ""]
    return kept(out, partial(run, "segment", "dpc_miniworld", out, *line))["scores"]["miou"]


def against_aspp(folder: Path, seed: int, cell: str) -> dict[str, float]:
    """Return the mIoU of a cell and of ASPP, trained anew side by side; arguments as of `train_anew`."""
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(("cell", "aspp"), pool.map(partial(train_anew, folder, seed), (cell, "aspp"))))


def of_seed(folder: Path, seed: int, cells: int) -> dict[str, Any]:
    """Return one seed's scores."""
    place = folder / f"near-{seed}"
    near = search(place, seed, cells)
    uniform = search(
        folder / f"uniform-{seed}",
        seed,
        cells,
        *("--sampler.kind", "uniform", "--top", "0", "--compare"),
        *("--full.task.encoder.weights", str(place / "backbone/model")),
    )
    aspp = near["full"]["aspp"]
    others = {name: one for name, one in near["full"].items() if name != "aspp"}
    small = {name: one for name, one in others.items() if one["weights"] <= SHARE * aspp["weights"]}
    name = max(small, key=lambda name: small[name]["miou"], default="")
    best = small.get(name)
    return {
        "seed": seed,
        "proxy near best": near["proxy_miou"],
        "proxy uniform": uniform["proxy_miou"],
        "aspp": aspp["miou"],
        "best cell": max(one["miou"] for one in others.values()),
        "best small cell": best["miou"] if best else None,
        "weights": best["weights"] / aspp["weights"] if best else None,
        "anew": against_aspp(place, seed, str(place / f"cells/{name}.json")) if best else None,
        "rho": near["fidelity"]["rho"],
        "cells_an_hour": near.get("cells_an_hour"),
    }


def main(numbers: list[int], out: Path | None) -> None:
    """Run all seeds; print the table and the JSON."""
    seeds, cells, first_seed = numbers
    started = time.perf_counter()
    with study(out) as folder:
        rounds = [
            kept(folder / str(seed), partial(of_seed, folder, seed, cells))
            for seed in range(first_seed, first_seed + seeds)
        ]
    gains = {
        CLAIM: [100 * (one["anew"]["cell"] - one["anew"]["aspp"]) for one in rounds if one["anew"]],
        "the same in the search": [100 * (one["best small cell"] - one["aspp"]) for one in rounds if one["anew"]],
        "near best over uniform (proxy)": [100 * (one["proxy near best"] - one["proxy uniform"]) for one in rounds],
    }
    for claim, values in gains.items():
        middle, spread = (mean(values) if values else float("nan")), (stdev(values) if len(values) > 1 else 0.0)
        print(f"{claim:<34}{middle:>8.2f}{spread:>8.2f}  (points of mIoU, {len(values)} seeds)")
    result = {
        "gains": gains,
        "asked": {CLAIM: 0.6, "share of weights": SHARE},
        "rounds": rounds,
        "cells": cells,
        "seconds": round(time.perf_counter() - started),
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "versions": {name: version(name) for name in ("ray", "torch", "timm")},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(*arguments(sys.argv[1:], 3, 200, FIRST_SEED))

"""MUG's like-for-like study in miniature: which way of pretraining makes the encoder that transfers best.

    .venv/bin/python bench/effects/pretraining.py [seeds] [rows] [steps] [--out DIR]     # 3, 3,000 pairs, 2,000 of 64

Cut off, the same line with --out goes on with the arms that are not done (seconds are the last part's).
For each seed a world is painted and labelled by CLIP's selection; MUG, MAE, CLIP and SimCLR train the same encoder on
as many of its pictures, the last two discriminative, the others generative. Each encoder, and one of random weights, is
then tuned to the entities of another world with fewer pictures, probed linearly (LARS), and tuned to masks by UperNet's
head; pictures of a third world are told apart, by what no pretraining picture showed: every second entity is left out
there, and the others of what is tuned to. Two arms run at a time, each arm for all seeds before the next.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import worlds
from encoders import ARMS, DISCRIMINATIVE, GENERATIVE, TOLD_APART
from kept import arguments, kept, study
from tables import Scores, summary, table

FIRST_SEED = 421
"""Seeds 401 and 411 served to choose steps and rates."""
TEST_ROWS, TRANSFER_ROWS = 2_000, 2_000
TRANSFER_SEEDS = 4_000_000
"""What encoders are tuned on, of seed s, comes from world s + this."""
HERE = Path(__file__).parent
METRICS = {"fine-tuned top-1": 0.5, "mIoU": 2.0, "linear top-1": None}
"""Score -> points by which MUG is above the best of MAE, CLIP and SimCLR (arXiv 2301.07088)."""
RIVALS = ("mae", *DISCRIMINATIVE)


def run_arm(name: str, folder: Path, kb: Path, steps: int, seed: int) -> dict[str, Any]:
    """Run an arm in a process of its own."""
    line = [sys.executable, str(HERE / "encoders.py"), name, str(folder / "data/world")]
    line += [str(folder / "data/transfer"), str(kb), str(folder / name), str(steps), str(seed)]
    environment, started = os.environ | {"OMP_NUM_THREADS": "1"}, time.perf_counter()
    done = subprocess.run(line, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr[-3000:]}")
    found = json.loads(done.stdout.splitlines()[-1]) | {"seconds": round(time.perf_counter() - started)}
    print(json.dumps(found), file=sys.stderr, flush=True)
    return found


def make_worlds(folder: Path, kb: Path, seed: int, rows: int) -> list[str]:
    """Paint and label what is pretrained on and what is transferred to, and paint the test pictures.

    Returns:
        list: the names of the folders.
    """
    world = worlds.World(folder / "world", seed)
    transfer = worlds.World(folder / "transfer", seed + TRANSFER_SEEDS)
    for one, its_rows, keep in (
        (world, rows, lambda row: not TOLD_APART.intersection(row.entity_ids)),
        (transfer, TRANSFER_ROWS, lambda row: TOLD_APART.issuperset(row.entity_ids)),
    ):
        one.folder.mkdir(parents=True)
        worlds.paint_pairs(one, its_rows, keep)
        worlds.label(["miniworld", "--source", one.pairs, "--kb", kb, "--out", one.store("selected")])
    worlds.paint_test(world, TEST_ROWS)
    return [world.folder.name, transfer.folder.name]


def gains(scores: Scores) -> dict[str, float]:
    """Return each claim's difference, in points."""
    found = {}
    for metric in METRICS:
        best = {
            name: max(scores[arm][metric] for arm in arms)
            for name, arms in (("rival", RIVALS), ("generative", GENERATIVE), ("discriminative", DISCRIMINATIVE))
        }
        found[f"MUG over the best of MAE, CLIP, SimCLR: {metric}"] = 100 * (scores["mug"][metric] - best["rival"])
        found[f"generative over discriminative: {metric}"] = 100 * (best["generative"] - best["discriminative"])
    return found


def asked(claim: str) -> float | None:
    """Return the points that a claim wants; None: it is reported."""
    metric = claim.partition(": ")[2]
    return METRICS[metric] if claim.startswith("MUG") or METRICS[metric] is None else 0.0


def of_seeds(folder: Path, seeds: Sequence[int], rows: int, steps: int) -> list[list[dict[str, Any]]]:
    """Return each seed's arms."""
    kb = folder / "kb"
    kept(kb, lambda: worlds.build_kb(kb))
    for seed in seeds:
        data = folder / str(seed) / "data"
        kept(data, partial(make_worlds, data, kb, seed, rows))
        print(f"seed {seed}: data made", file=sys.stderr, flush=True)

    def start(name: str, seed: int) -> dict[str, Any]:
        place = folder / str(seed)
        return kept(place / name, partial(run_arm, name, place, kb, steps, seed))

    with ThreadPoolExecutor(2) as pool:
        arms = [pool.map(partial(start, name), seeds) for name in (*ARMS, "nothing")]
        return [list(arms_of_seed) for arms_of_seed in zip(*arms)]


def main(numbers: list[int], out: Path | None) -> None:
    """Run all arms of all seeds; print the table and the JSON."""
    seeds, rows, steps, first_seed = numbers
    started = time.perf_counter()
    with study(out) as folder:
        rounds = of_seeds(folder, range(first_seed, first_seed + seeds), rows, steps)
    found = [{one["arm"]: one["scores"] for one in arms} for arms in rounds]
    print(table(found, gains, asked))
    result = {
        **summary(found, gains, asked),
        "rows": rows,
        "steps": steps,
        "rounds": rounds,
        "seconds": round(time.perf_counter() - started),
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "versions": {name: version(name) for name in ("ray", "torch", "timm", "open-clip-torch", "transformers")},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(*arguments(sys.argv[1:], 3, 3_000, 2_000, FIRST_SEED))

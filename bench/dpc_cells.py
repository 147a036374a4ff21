"""Cells tried an hour from maps that are there, against training encoder and cell end to end on the same pictures.

    .venv/bin/python bench/dpc_cells.py [cells] [rounds]        # 6 cells, 3 interleaved rounds

Both sides try the same cells (drawn uniformly) for the same steps of the same batch, and score each on the same
pictures, with two processes of one thread each: the proxy task of `dpc_search_miniworld`. The maps are computed once,
before the first round; how long that takes is told beside. Asked: 10 times as many.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

PROCESSES = 2
SIDES = ("cached", "end to end")
TRAIN, VAL = "miniworld://?rows=512&seed=7", "miniworld://?rows=128&seed=901"


def settings(out: str) -> Any:
    """Return the search that both sides take their task from."""
    from raylab.recipes.search import dpc_search_miniworld

    made = dpc_search_miniworld()
    proxy = replace(made.proxy, looks=1)
    return replace(made, out=out, proxy=proxy, full=replace(made.full, train=TRAIN, val=VAL))


def compute_maps(out: str) -> None:
    """Be the process that computes the maps, by an encoder of random weights: their numbers do not matter here."""
    import torch

    from raylab.dense.features import Extractor
    from raylab.dense.proxy import feature_plans

    torch.set_num_threads(1)
    for plan in feature_plans(settings(out)):
        extract = Extractor(plan.encoder, plan.seed)
        for part in plan.missing():
            extract(plan, part)
        plan.finish()


def measure(side: str, out: str, first: int, cells: int) -> None:
    """Be one of a side's processes: try some cells, and print the seconds between the first and the last."""
    import numpy as np
    import torch

    from raylab.models.cell_space import uniform

    torch.set_num_threads(1)
    config = settings(out)
    drawn = [uniform(np.random.default_rng([first, number])) for number in range(cells)]
    attempt = cached(config) if side == "cached" else end_to_end(config)
    attempt(drawn[0], 2)  # what is made once is made
    started = time.perf_counter()
    for cell in drawn:
        attempt(cell, config.proxy.steps)
    print(json.dumps({"seconds": time.perf_counter() - started}))


def cached(config: Any) -> Any:
    """Return what tries a cell on maps."""
    from raylab.dense.features import FeatureMaps
    from raylab.dense.proxy import Proxy

    maps = [FeatureMaps(f"{config.out}/features/{name}") for name in ("train", "val")]

    def attempt(cell: Any, steps: int) -> None:
        Proxy(cell, replace(config, proxy=replace(config.proxy, steps=steps)), *maps).look()

    return attempt


def end_to_end(config: Any) -> Any:
    """Return what trains encoder and cell on pictures: what the proxy stands for, cut as short."""
    from raylab.dense.batches import training_batches, whole_batches
    from raylab.dense.learning import Learning
    from raylab.models.pixel_net import PixelNet
    from raylab.sources.segmentation import open_masked
    from raylab.tasks.segmentation import SegmentationLearner
    from raylab.train.accelerators import open_accelerator

    full, proxy = config.full, config.proxy
    train, val = open_masked(full.train), open_masked(full.val)

    def attempt(cell: Any, steps: int) -> None:
        encoder = full.task.encoder.build()
        head = full.task.head.of(cell, encoder.channels[-1], encoder.strides[-1], len(train.classes))
        learning = Learning(
            SegmentationLearner(PixelNet(encoder, head), train.classes, full.task),
            train.classes,
            accelerator=open_accelerator("cpu", 1),
            optim=proxy.optim,
            precision="fp32",
            seed=0,
            about={},
        )
        rows = training_batches(train, full.pixels, batch=proxy.batch, seed=0, steps=range(steps), readers=1)
        learning.run(
            rows,
            range(steps),
            evaluate=lambda: learning.scores(whole_batches(val, full.pixels, 32), 32),
            on_point=lambda step, point: False,
            on_save=lambda step: None,
            every=(steps, steps, steps),
        )

    return attempt


def run_side(side: str, out: str, cells: int) -> float:
    """Return the cells an hour of both processes together."""
    line = [sys.executable, __file__, "side", side, out]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    each = -(-cells // PROCESSES)
    begun = [
        subprocess.Popen([*line, str(first), str(each)], stdout=subprocess.PIPE, text=True, env=environment)
        for first in range(PROCESSES)
    ]
    seconds = [json.loads(one.communicate()[0].splitlines()[-1])["seconds"] for one in begun]
    return 3600 * sum(each / one for one in seconds)


def main(cells: int = 6, rounds: int = 3) -> None:
    """Run both sides in turns; print the JSON."""
    found: dict[str, list[float]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as out:
        started = time.perf_counter()
        subprocess.run([sys.executable, __file__, "maps", out], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        maps_s = time.perf_counter() - started
        size = sum(file.stat().st_size for file in Path(out).rglob("*.npy"))
        for number in range(rounds):
            for side in SIDES:
                found[side].append(run_side(side, out, cells))
                print(f"round {number}, {side}: {found[side][-1]:.0f} cells/h", file=sys.stderr, flush=True)
    result = {
        "cells_an_hour": {side: median(values) for side, values in found.items()},
        "ratio": median(one / other for one, other in zip(found["cached"], found["end to end"])),
        "asked": 10.0,
        "rounds": found,
        "cells_a_round": cells,
        "maps_s": round(maps_s, 1),
        "maps_mb": round(size / 1e6),
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "versions": {name: version(name) for name in ("torch", "timm")},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    if sys.argv[1:2] == ["side"]:
        measure(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
    elif sys.argv[1:2] == ["maps"]:
        compute_maps(sys.argv[2])
    else:
        main(*map(int, sys.argv[1:]))

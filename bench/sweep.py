"""Sweeps on the mini-world: what ending trials early costs and saves, what Ray Tune costs a trial, what a proxy tells.

    .venv/bin/python bench/sweep.py early [trials] [steps] [--out DIR]     # 24 of 200 steps; then fresh seeds
    .venv/bin/python bench/sweep.py overhead [rounds] [steps]              # jobs/train.py against jobs/tune.py

`early` takes an hour and more; cut off, the same line with --out goes on, as sweeps do (seconds are the last part's).
`early`: the same 24 trials with ASHA and all to the end, their best validation HM and their steps (asked: within the
spread of seeds, at 0.4 of the steps); the rank correlation of shorter trials, and of trials of a smaller network, with
full ones. Trials tune a GiT that 1,000 steps on another world made, as the paper tunes on OVEN: one that begins from
nothing knows no name yet after the steps that a trial can have here. `overhead`: seconds from a short to a long trial,
so that what start-up takes cancels out; the sweep's trial has W&B, the bare run has not (asked: under 10 %).
"""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

from effects.kept import arguments, study

from raylab.storage import Folder
from raylab.tune.fidelity import between
from raylab.tune.plan import ScheduleConfig
from raylab.tune.results import Objective, read_trials

Flags = dict[str, Any]
HM = Objective("validation/oven/every-question/final/HM")
LOOKS = ScheduleConfig().looks
"""With six, ASHA took half of all steps: it lets a look's first trials go on, since they are the
best so far, and of few trials that is many."""
SEEDS = (101, 102, 103)
SHAPES = {"model": (96, 2, 3), "small": (64, 2, 2)}
"""Width, layers, heads of the decoder: what is swept, and the proxy."""
FIRST_STEPS = 1_000
"""Of the model that trials tune."""


def run(job: str, flags: Flags) -> dict[str, Any]:
    """Run a job; return its summary and seconds."""
    words = [[f"--{name}"] if value is None else [f"--{name}", str(value)] for name, value in flags.items()]
    line = [sys.executable, f"jobs/{job}.py", *chain(*words)]
    started = time.perf_counter()
    done = subprocess.run(line, capture_output=True, text=True, check=False, env=os.environ | {"WANDB_MODE": "offline"})
    if done.returncode:
        raise SystemExit(f"{' '.join(line)}\n{done.stderr[-3000:]}")
    print(done.stderr[-1500:], file=sys.stderr)
    return json.loads(done.stdout.splitlines()[-1]) | {"job_seconds": time.perf_counter() - started}


def prepare(folder: Path, world: int = 7) -> Flags:
    """Label a mini-world, if it is not yet; return the flags of a small GiT's training on it."""
    kb, labels, source = folder / "kb", folder / f"labels-{world}", f"miniworld://?rows=2000&seed={world}"
    if not kb.exists():
        run("build_kb", {"catalogues": "miniworld://", "out": kb})
    if not (labels / "MANIFEST.json").exists():
        run("label", {"recipe": "miniworld", "source": source, "kb": kb, "out": labels})
    return {
        "recipe": "git_miniworld",
        "source.uri": source,
        "labels": labels,
        "kb": kb,
        "task.targets.rationale": 0,
        "task.targets.questions": 0,
        "task.encoder.no-from-scratch": None,  # a flag alone
        "task.encoder-rate": 0.3,
        "task.shape.target": 14,
        "batch": 32,
        "track.every": 20,
    }


def tuning(folder: Path, name: str) -> Flags:
    """Train a model on one world, if it is not yet; return the flags of its tuning on another one."""
    sizes = dict(zip(("width", "layers", "heads"), SHAPES[name]))
    shape = {f"task.shape.{size}": value for size, value in sizes.items()}
    first = folder / f"{name}-first"
    run("train", prepare(folder) | shape | {"out": first, "steps": FIRST_STEPS, "track.project": ""})
    return prepare(folder, world=8) | shape | {"init": first, "optim.rate": 3e-4}


def validated(flags: Flags) -> Flags:
    """Return the flags of a sweep that goes by validation questions of another world."""
    oven = {"questions": "miniworld://?rows=1500&seed=903", "rows": 240}
    return flags | {
        "validate.suite": "oven",
        "validate.decoding.beams": 4,
        "validate.threads": 1,
        "schedule.looks": LOOKS,
        **{f"validate.oven.{name}": value for name, value in oven.items()},
    }


def early(folder: Path, trials: int, steps: int) -> dict[str, Any]:
    """Compare ASHA with all to the end, the best with the defaults, and proxies with full trials."""
    base = validated(tuning(folder, "model")) | {"steps": steps}
    swept = {"samples": trials, "space.batch": "powers_of_two(16, 64)"}
    swept |= {"space.optim.rate": "loguniform(1e-5, 1e-3)"}  # the paper's, widened
    found = {
        scheduler: run("tune", base | swept | {"schedule.scheduler": scheduler, "out": folder / scheduler})
        for scheduler in ("none", "asha")
    }
    small = validated(tuning(folder, "small")) | {"steps": steps // 2, "schedule.scheduler": "none"}
    proxy = run("tune", small | swept | {"out": folder / "proxy"})
    full = read_trials(Folder(str(folder / "none")))
    rho, count = between(read_trials(Folder(str(folder / "proxy"))), full, HM)
    fresh = {
        "defaults": fresh_seeds(base | {"out": folder / "defaults"}),
        "best": fresh_seeds(base | found["asha"]["values"] | {"out": folder / "best"}),
    }
    return {
        "best": {scheduler: summary["objective"][HM.name] for scheduler, summary in found.items()},
        "steps": {scheduler: summary["steps"] for scheduler, summary in found.items()},
        "share_of_steps": found["asha"]["steps"] / found["none"]["steps"],
        "seconds": {scheduler: summary["job_seconds"] for scheduler, summary in found.items()},
        "values": found["asha"]["values"],
        "fresh_seeds": {
            arm: {"values": values, "mean": mean(values), "deviation": stdev(values)} for arm, values in fresh.items()
        },
        "fidelity_of_looks": found["none"]["fidelity"],
        "fidelity_of_small_network": {"rho": rho, "trials": count, "seconds": proxy["job_seconds"]},
        "trials": [{"values": dict(one.values), "score": one.value(HM)} for one in full],
    }


def fresh_seeds(flags: Flags) -> list[float]:
    """Train with three seeds that no sweep had; return their validation HM."""
    seeds = {"space": "none", "space.seed": f"grid_search({', '.join(map(str, SEEDS))})", "schedule.scheduler": "none"}
    run("tune", flags | seeds)
    return [trial.value(HM) for trial in read_trials(Folder(str(flags["out"])))]


def overhead(folder: Path, rounds: int, steps: int) -> dict[str, Any]:
    """Compare a bare training run with a sweep of one trial, in interleaved rounds."""
    base = prepare(folder)
    seconds: dict[str, list[float]] = {"train": [], "tune": []}
    for number in range(rounds):
        for job, found in seconds.items():
            short, long = (timed(job, base, folder / f"{job}-{number}-{n}", n) for n in (LOOKS, steps))
            found.append(long - short)
    pairs = list(zip(seconds["tune"], seconds["train"]))
    return {"seconds": seconds, "overhead": median(tune / train for tune, train in pairs) - 1}


def timed(job: str, base: Flags, out: Path, steps: int) -> float:
    """Return a job's seconds for a run of so many steps, with as many looks and checkpoints in either job."""
    every = math.ceil(steps / LOOKS)
    flags = base | {"out": out, "steps": steps, "concurrent": 1}
    if job == "tune":
        flags |= {"space": "none", "samples": 1, "schedule.looks": LOOKS, "schedule.scheduler": "asha"}
    else:
        del flags["concurrent"]
        flags |= {"track.project": "", "checkpoint.every": every, "track.evaluate-every": every}
    return run(job, flags)["job_seconds"]


def main(claim: str, *words: str) -> None:
    """Print the result, JSON last."""
    compared, usual = {"early": (early, (24, 200)), "overhead": (overhead, (3, 600))}[claim]
    numbers, out = arguments(list(words), *usual)
    with study(out) as folder:
        found = compared(folder, *numbers)
    versions = {name: version(name) for name in ("ray", "torch", "optuna", "wandb")}
    about = {"numbers": numbers, "cpus": os.cpu_count(), "machine": platform.machine(), "versions": versions}
    print(json.dumps({"claim": claim, **found, **about}))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""How long looks at held-out rows stop training: their seconds against the seconds of the steps between them.

    .venv/bin/python bench/looks.py [rounds] [steps]        # 3 interleaved rounds, 250 steps and a look, twice a run

jobs/train.py trains the mini-world's recipes, 64 pictures a step, and looks at as many held-out pictures as a
full run does of its own, by ratio: 4,096 pictures every 500 steps of 1,024 are 0.8 % of what is trained on between two
looks; here 128 of 16,000. A GiT writes the answers of 32 of them, as a full run does, which is 64 times the share.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from statistics import median

RECIPES: dict[str, tuple[object, ...]] = {
    "clip": (),
    "mofi": (),
    "git": ("--task.targets.rationale", 0, "--task.targets.questions", 0),
}
"""Recipe -> its flags: labels that no annotator saw have names alone."""
LOOKED_AT = 128
ROOT = Path(__file__).parents[1]


def run(job: str, *words: object) -> None:
    """Run a job."""
    line = [sys.executable, f"jobs/{job}.py", *map(str, words)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(line)}\n{done.stderr[-3000:]}")


def looks(folder: Path, recipe: str, number: int, steps: int) -> list[dict[str, float]]:
    """Train; return each look's seconds and those of the steps before it."""
    out = folder / f"{recipe}-{number}"
    run(
        *("train", "--recipe", f"{recipe}_miniworld", "--labels", folder / "labels", "--out", out),
        *("--steps", 2 * steps, "--track.evaluate-every", steps, "--track.every", steps, "--checkpoint.every", steps),
        *("--batch", 64, "--data.held-out", 0.15, "--data.held-out-rows", LOOKED_AT, "--track.project", ""),
        *RECIPES[recipe],
    )
    points = map(json.loads, (out / "curves.jsonl").read_text().splitlines())
    return [{"look_s": one["evaluate_s"], "steps_s": steps * one["step_s"]} for one in points if "evaluate_s" in one]


def main(rounds: int = 3, steps: int = 250) -> None:
    """Print the shares, JSON last."""
    found: dict[str, list[dict[str, float]]] = {recipe: [] for recipe in RECIPES}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run("build_kb", "--catalogues", "miniworld://", "--out", folder / "kb")
        run("label", "--recipe", "miniworld", "--kb", folder / "kb", "--out", folder / "labels")
        for number in range(rounds):
            for recipe in RECIPES:
                found[recipe] += looks(folder, recipe, number, steps)
    shares = {recipe: median(one["look_s"] / one["steps_s"] for one in seen) for recipe, seen in found.items()}
    for recipe, share in shares.items():
        print(f"{recipe:<8}{share:>8.2%} of the time of the steps")
    about = {"cpus": os.cpu_count(), "machine": platform.machine()}
    versions = {one: version(one) for one in ("ray", "torch")}
    print(json.dumps({"shares": shares, "looks": found, "steps": steps, **about, "versions": versions}))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

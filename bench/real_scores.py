"""Real photos, whole sets, through jobs/evaluate.py: every picture, every class, every protocol that fits the set.

    .venv/bin/python bench/real_scores.py [path of shared/data] [model]     # default: the mini-world's small CLIP

The mini-world's CLIP has never seen a photo: its figures are near chance and show that the sets go through whole. A
model that has seen some can be made in minutes by bench/gpu/tiny_imagenet.py --out DIR. OVEN's questions are answered
from a knowledge base of 100,000 Wikidata entities.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from real_data import DATA, build, job

from raylab.recipes.label import MINIWORLD_CLIP

GROCERY = "{data}/grocery_81/{part}.parquet#label=fine,title=name"
TINY = "{data}/tiny_imagenet_200/train-0{part}.parquet#label=qid,title=name"


def lines(data: Path, kb: Path) -> dict[str, list[str]]:
    """Return the flags of each set."""
    products, shelf = (GROCERY.format(data=data, part=part) for part in ("val", "train"))
    tiny, tiny_train = (TINY.format(data=data, part=part) for part in (2, 0))
    sample = f"{data}/imagenet_sample_1000#label=wnid,title=lemmas"
    questions = f"{data}/oven_mini_12/metadata.jsonl"
    everything = "retrieval,zero_shot,probe,matching"
    return {
        "grocery_81": ["--suite", everything, "--data", products, "--probe.train", shelf, "--matching.memory", shelf],
        "tiny_imagenet_200": [
            "--suite", everything, "--data", tiny, "--probe.train", tiny_train, "--matching.memory", tiny_train,
        ],
        "imagenet_sample_1000": ["--suite", "zero_shot", "--data", sample],
        "oven_mini_12": ["--suite", "oven", "--kb", str(kb), "--oven.questions", questions],
    }  # fmt: skip


def scores(name: str, line: list[str], model: str, out: Path) -> dict[str, Any]:
    """Score one set; return its figures, how many pictures were refused and the seconds."""
    started = time.perf_counter()
    job("evaluate", "--model", model, *line, "--out", out / name, "--threads", 1)
    found = json.loads((out / name / "scores.json").read_text())
    figures = {
        f"{one['benchmark']} {one['protocol']} {one['metric']} {one['part']}": [round(one["value"], 4), one["count"]]
        for one in found["scores"]
    }
    return {"scores": figures, "refused": found["refused"], "seconds": round(time.perf_counter() - started, 1)}


def main(place: str = str(DATA), model: str = MINIWORLD_CLIP.name) -> None:
    """Score all sets and print the JSON last."""
    data = Path(place)
    if not data.is_dir():
        raise SystemExit(f"{data} is not here: name the folder of real data on the line")
    with tempfile.TemporaryDirectory() as folder:
        kb = Path(folder) / "kb"
        build(data, kb)
        found = {name: scores(name, line, model, Path(folder)) for name, line in lines(data, kb).items()}
    print(json.dumps({"rounds": [found], "model": model, "cpus": os.cpu_count()}))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Real photos through the whole path, annotator included: portraits and OVEN's own examples.

    .venv/bin/python bench/real_annotation.py [path of shared/data]

The models are the mini-world's small CLIP and the mini annotator, which know nothing of photos: what is shown is that
every row is accounted for. Their answers mean nothing here.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from real_data import DATA, build, job

from raylab.label.store import LabelStore
from raylab.recipes.label import MINIWORLD_CLIP

SETS = {
    "oven_mini_12": {"image": "file", "caption": "entity_text", "key": "data_id"},
    "senators_100": {"image": "file", "caption": "caption", "key": "bioguide"},
}
KEEP_ALL = ["--select.min-score", 0, "--select.min-margin", 0, "--store.min-entity-images", 1]


def annotate(data: Path, kb: Path, out: Path, name: str) -> dict[str, Any]:
    """Label and annotate one set; return the counts, the reasons, and a row as it came out."""
    flags = [part for key, value in SETS[name].items() for part in (f"--source.columns.{key}", value)]
    clip = ["--select.clip.name", MINIWORLD_CLIP.name, "--select.clip.pretrained", "None"]
    source = ["--source", data / name / "metadata.jsonl", "--kb", kb, *flags]
    job("label", *source, "--out", out / name, *clip, "--mentions.spacy", data / "spacy_ner_small", *KEEP_ALL)
    line = ["--recipe", "rew_miniworld", "--source", out / name, "--kb", kb, "--out", out / f"{name}-rew"]
    last = job("label", *line, "--store.min-entity-images", 1)
    summary = json.loads((out / f"{name}-rew" / "summary.json").read_text())
    assert last["rows_in"] == last["labelled"] + last["rejected"] + last["failed"]
    rows = LabelStore(last.pop("out")).labels().head(1, columns=["caption", "entity_name", "annotation"]).to_pylist()
    return last | {"reasons": summary["reasons"], "annotation": summary["annotation"], "a_row": rows[:1]}


def main(data: Path = DATA) -> None:
    """Run both sets and print the JSON last."""
    if not data.is_dir():
        raise SystemExit(f"{data} is not here: name the folder of real data on the line")
    with tempfile.TemporaryDirectory() as folder:
        kb = Path(folder) / "kb"
        build(data, kb)
        found = {name: annotate(data, kb, Path(folder), name) for name in SETS}
    print(json.dumps({"rounds": [found], "cpus": os.cpu_count()}))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))

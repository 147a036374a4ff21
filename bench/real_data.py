"""Real input through the job: web pairs, portraits and photos whole; alt-texts and captions through the text steps.

    .venv/bin/python bench/real_data.py [path of shared/data]

Builds a knowledge base from the Wikidata catalogues there. No CLIP weights can be had offline, so the image step runs
with the mini-world's small CLIP, which may not abstain here: it shows that everything runs and that all rows are
accounted for, while its choices mean nothing on photos. The text steps run with the spaCy pipeline there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa

from raylab.label.candidates import CandidatesConfig
from raylab.label.link import LinkConfig
from raylab.label.mentions import MentionsConfig
from raylab.label.step import StepContext
from raylab.label.store import LabelStore
from raylab.recipes.label import MINIWORLD_CLIP
from raylab.schema import widen
from raylab.sources import open_source
from raylab.sources.base import Columns, SourceConfig

DATA = Path("../shared/data")
CATALOGUES = ("kgtk_arnold", "oewn_wikidata", "nsi_brands_operators", "places_dr5hn", "us_congress")

IMAGES = {
    "cc12m_32": ("cc12m_32/cc12m-train-0000.tar", {}),
    "senators_100": ("senators_100/metadata.jsonl", {"image": "file", "caption": "caption", "key": "bioguide"}),
    "imagenet_sample_1000": (
        "imagenet_sample_1000/metadata.jsonl",
        {"image": "file", "caption": "name", "key": "wnid"},
    ),
}
TEXTS = {
    "alttext_10k": ("alttext_10k/urls_and_alttext.parquet", Columns(image="", caption="TEXT", url="URL")),
    "mel_captions": ("mel_captions/wikidata_mel_dev.jsonl", Columns(image="", caption="caption", key="id")),
}


def build(data: Path, out: Path) -> dict[str, Any]:
    """Build the knowledge base by its job."""
    catalogues = [data / "wikidata_catalog" / f"{name}.jsonl.gz" for name in CATALOGUES]
    catalogues.append(data / "wikidata_catalog" / "imagenet1000_qid.jsonl")
    edges = data / "wikidata_catalog" / "kgtk_p279.jsonl.gz"
    return job("build_kb", "--out", out, "--catalogues", *catalogues, "--type-edges", edges)


def job(name: str, *arguments: object) -> dict[str, Any]:
    """Run a job and return its last line."""
    line = [sys.executable, f"jobs/{name}.py", *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-4000:])
    return json.loads(done.stdout.splitlines()[-1])


def whole(data: Path, kb: Path, out: Path, name: str) -> dict[str, Any]:
    """Run the labeling job over images and captions; return its line, its reasons and the rows out of each step."""
    path, columns = IMAGES[name]
    flags = [part for key, value in columns.items() for part in (f"--source.columns.{key}", value)]
    model = ["--select.clip.name", MINIWORLD_CLIP.name, "--select.clip.pretrained", "None"]
    spacy = ["--mentions.spacy", data / "spacy_ner_small"]
    line = ["--source", data / path, "--kb", kb, "--out", out / name, *flags, *model, *spacy]
    keep_all = ["--select.min-score", 0, "--select.min-margin", 0, "--store.min-entity-images", 1]
    last = job("label", *line, *keep_all)
    summary = json.loads((out / name / "summary.json").read_text())
    last.pop("out")
    if columns:
        last["linked_right"], last["gold"] = against_gold(data / path, columns["key"], LabelStore(str(out / name)))
    return last | {"reasons": summary["reasons"], "steps": {s["name"]: s["rows_out"] for s in summary["steps"]}}


def against_gold(metadata: Path, key: str, store: LabelStore) -> tuple[int, int]:
    """Count rows whose best entity by text is the QID that their metadata gives, and rows that have one."""
    rows = [json.loads(line) for line in metadata.read_text().splitlines()]
    gold = {row[key]: row["qid"] for row in rows if row.get("qid")}
    found = store.labels().to_table(columns=["key", "link_entity_id"]).to_pylist()
    return sum(gold.get(row["key"]) == row["link_entity_id"] for row in found if row["key"] in gold), len(gold)


def text(data: Path, kb: Path, name: str) -> dict[str, Any]:
    """Take all captions through mentions, candidates and disambiguation in this process."""
    path, columns = TEXTS[name]
    config = SourceConfig(uri=str(data / path), columns=columns)
    source = open_source(config)
    context = StepContext(kb=str(kb), source=config)
    mentions = MentionsConfig(spacy=str(data / "spacy_ner_small"))
    steps = [step.build(context) for step in (mentions, CandidatesConfig(), LinkConfig())]
    done, started = [], time.perf_counter()
    for shard in source.shards():
        for chunk in source.read(shard):
            batch = widen(chunk)
            for step in steps:
                batch = step(batch)
            done.append(batch.select(["mentions", "link_entity_id", "reject_reason"]))
    seconds = time.perf_counter() - started
    rows = pa.concat_tables(done)
    reasons = Counter(reason for reason in rows["reject_reason"].to_pylist() if reason)
    return {
        "rows": len(rows),
        "linked": len(rows) - rows["link_entity_id"].null_count,
        "reasons": dict(reasons),
        "rows_per_s": round(len(rows) / seconds, 1),
        "seconds": round(seconds, 1),
    }


def main(data: Path = DATA) -> None:
    """Run everything and print the JSON last."""
    if not data.is_dir():
        raise SystemExit(f"{data} is not here: name the folder of real data on the line")
    with tempfile.TemporaryDirectory() as folder:
        kb = Path(folder) / "kb"
        found: dict[str, Any] = {"kb": build(data, kb)}
        found["kb"].pop("out")
        for name in IMAGES:
            found[name] = whole(data, kb, Path(folder), name)
            print(name, found[name], file=sys.stderr)
        for name in TEXTS:
            found[name] = text(data, kb, name)
            print(name, found[name], file=sys.stderr)
    print(json.dumps({"rounds": [found], "cpus": os.cpu_count()}))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))

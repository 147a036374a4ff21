"""Captions a second and private memory of the text steps: alias mentions + candidates + disambiguation, on one core.

    .venv/bin/python bench/linking_speed.py --kb /some/folder/kb     # alttext_10k from ../shared/data

The claim is 10,000 captions a second and under 150 MB private to a worker with a knowledge base of 6.1 million entities
and 20 million surfaces. Where `--kb` does not exist, it is made from `bench/synthetic_kb.py`, which takes a quarter of
an hour. Every round runs in a process of its own, so that its memory is a worker's; rounds with and without the spaCy
recogniser of ../shared/data take turns.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tyro

DATA = Path(__file__).parents[2] / "shared" / "data"
TARGET_CAPTIONS_A_SECOND = 10_000
TARGET_PRIVATE_MB = 150
BATCH = 512
PASSES = 3


@dataclass(frozen=True)
class Args:
    """What is measured."""

    kb: Path
    """A knowledge base; built from the synthetic catalogue where it is missing."""
    rounds: int = 5
    """Processes of each kind."""
    entities: int = 6_100_000
    """Size of the synthetic catalogue where it is made here."""
    worker: str = ""
    """Internal: run one round in this process; "aliases" or "spacy"."""


def build_synthetic(kb: Path, entities: int) -> None:
    """Make the synthetic catalogue and its knowledge base."""
    import synthetic_kb

    from raylab.kb.build import BuildConfig, build

    catalogue = kb.parent / f"synthetic-{entities}.jsonl"
    synthetic_kb.write(catalogue, entities)
    build(BuildConfig(str(kb), catalogues=(str(catalogue),)))


def private_mb() -> dict[str, float]:
    """Return this process's memory in MB: pages that only it holds and pages that it shares."""
    fields = dict(line.split(":") for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    size = {name: int(value.split()[0]) / 1024 for name, value in fields.items()}
    # clean private pages are those of mapped files that no other process has touched yet: the next worker shares them
    return {"private_mb": size["Private_Dirty"], "file_mb": size["Private_Clean"] + size["Shared_Clean"]}


def work(args: Args) -> dict[str, object]:
    """Run one round: build the steps, label all captions `PASSES` times, report the median pass."""
    from raylab.label.candidates import CandidatesConfig
    from raylab.label.link import LinkConfig
    from raylab.label.mentions import MentionsConfig
    from raylab.label.step import Step, StepContext
    from raylab.schema import widen
    from raylab.sources.base import SourceConfig

    start = time.perf_counter()
    context = StepContext(str(args.kb), SourceConfig())
    with_spacy = args.worker == "spacy"
    finder = MentionsConfig(aliases_only=not with_spacy, spacy=str(DATA / "spacy_ner_small"))
    steps: dict[str, Step] = {
        "mentions": finder.build(context),
        "candidates": CandidatesConfig().build(context),
        "link": LinkConfig().build(context),
    }
    opened = time.perf_counter() - start
    captions = pq.read_table(DATA / "alttext_10k" / "urls_and_alttext.parquet", columns=["TEXT"])["TEXT"]
    keys = pa.array([str(number) for number in range(len(captions))])
    rows = widen(pa.table({"row_id": keys, "shard": keys, "key": keys, "caption": captions}))
    passes = [one_pass(rows, steps) for _ in range(1 if with_spacy else PASSES)]
    middle = sorted(passes, key=lambda one: one["cpu_s"])[len(passes) // 2]
    heavy = [name for name in ("torch", "spacy", "sklearn", "ray") if name in sys.modules]
    return {"kind": args.worker, "open_s": round(opened, 3), **middle, **private_mb(), "imported": heavy}


def one_pass(rows: pa.Table, steps: dict) -> dict[str, float]:
    """Send all rows through all steps; return seconds and counts."""
    spent = dict.fromkeys(steps, 0.0)
    wall, linked, candidates = time.perf_counter(), 0, 0
    for start in range(0, rows.num_rows, BATCH):
        batch = rows.slice(start, BATCH)
        for name, step in steps.items():
            cpu = time.process_time()
            batch = step(batch)
            spent[name] += time.process_time() - cpu
        linked += batch.num_rows - batch["link_entity_id"].null_count
        candidates += len(batch["candidates"].combine_chunks().flatten())
    cpu_s = sum(spent.values())
    seconds = {f"{name}_s": round(value, 3) for name, value in spent.items()}
    rates = {"cpu_s": round(cpu_s, 3), "captions_a_cpu_s": round(rows.num_rows / cpu_s)}
    counts = {"linked": linked, "candidates": candidates, "wall_s": round(time.perf_counter() - wall, 3)}
    return {**rates, **seconds, **counts}


def main(args: Args) -> None:
    """Measure, or run one round."""
    if args.worker:
        print(json.dumps(work(args)))
        return
    if not args.kb.exists():
        build_synthetic(args.kb, args.entities)
    rounds = []
    for _ in range(args.rounds):
        for kind in ("aliases", "spacy"):
            command = [sys.executable, __file__, "--kb", str(args.kb), "--worker", kind]
            one_core = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "ARROW_NUM_THREADS": "1"}
            done = subprocess.run(command, env=one_core, check=True, capture_output=True, text=True)
            rounds.append(json.loads(done.stdout.splitlines()[-1]))
            print(rounds[-1], file=sys.stderr)
    medians = {
        kind: {
            name: statistics.median(r[name] for r in rounds if r["kind"] == kind)
            for name in ("captions_a_cpu_s", "private_mb", "open_s")
        }
        for kind in ("aliases", "spacy")
    }
    info = json.loads((args.kb / "kb.json").read_text())
    sizes = {name: info[name] for name in ("entities", "aliases", "owners")}
    sizes["files_mb"] = round(sum(info["files"].values()) / 2**20)
    report = {
        "captions_a_second": medians["aliases"]["captions_a_cpu_s"],
        "ratio": round(medians["aliases"]["captions_a_cpu_s"] / TARGET_CAPTIONS_A_SECOND, 3),
        "private_mb": medians["aliases"]["private_mb"],
        "medians": medians,
        "kb": sizes,
        "rounds": rounds,
        "cpus": os.cpu_count(),
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "pyarrow": pa.__version__},
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main(tyro.cli(Args))

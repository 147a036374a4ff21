"""Are the mini-world's captions as noisy as the web's, and how far does their text alone lead?

    .venv/bin/python bench/miniworld_noise.py

A round is a world (seeds 101-105, 2,000 rows). Each is set beside the real alt-texts of ../shared/data/alttext_10k,
read by one tagger that saw neither (../shared/data/spacy_ner_small): words and names a caption. Then the text steps
of the labeling job say how many rows they link to something that the picture does not hold, and how many rows keep the
true entity among their candidates. Without the real data, the comparison is left out. The figure is `wrong`, the least
share of wrong links; the issue asks for 0.30.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import spacy

from raylab.kb.build import BuildConfig, build
from raylab.label.audit import truth_report
from raylab.label.candidates import CandidatesConfig
from raylab.label.link import LinkConfig
from raylab.label.mentions import MentionsConfig
from raylab.label.step import StepContext
from raylab.schema import widen
from raylab.sources.base import SourceConfig
from raylab.sources.miniworld import SPACY_PIPELINE
from raylab.sources.miniworld.source import MiniworldSource

SEEDS = (101, 102, 103, 104, 105)
ROWS = 2000
REAL = Path(__file__).parents[2] / "shared" / "data"
STEPS = (MentionsConfig(spacy=str(SPACY_PIPELINE)), CandidatesConfig(), LinkConfig())


def _shape(captions: list[str], tagger: spacy.Language) -> dict[str, list[float]]:
    """Return the deciles of words a caption, and the shares of captions with 0, 1, 2, 3, 4 and more names."""
    names = Counter(min(len(doc.ents), 4) for doc in tagger.pipe([text[:300] for text in captions], batch_size=256))
    words = [len(text.split()) for text in captions]
    return {
        "words": statistics.quantiles(words, n=10),
        "names": [names[count] / len(captions) for count in range(5)],
    }


def _distance(one: list[float], other: list[float]) -> float:
    """Total variation distance of two distributions, 0 (equal) to 1."""
    return sum(abs(a - b) for a, b in zip(one, other)) / 2


def _read(config: SourceConfig) -> pa.Table:
    source = MiniworldSource(config)
    return widen(pa.concat_tables(table for shard in source.shards() for table in source.read(shard)))


def _text_only(rows: pa.Table, context: StepContext) -> dict[str, float]:
    for step in STEPS:
        rows = step.build(context)(rows)
    pairs = rows.select(["truth", "link_entity_id"]).to_pylist()
    wrong = sum(pair["link_entity_id"] is not None and pair["link_entity_id"] not in pair["truth"] for pair in pairs)
    return {"wrong": wrong / len(pairs), "reachable": truth_report(rows)["candidates"]["recall"] or 0.0}


def main() -> None:
    """Measure every round and print them."""
    real = None
    if REAL.is_dir():
        tagger = spacy.load(REAL / "spacy_ner_small")
        table = pq.read_table(REAL / "alttext_10k" / "urls_and_alttext.parquet", columns=["TEXT"])
        real = _shape(table["TEXT"].to_pylist(), tagger)
        print("real alt-texts", real, file=sys.stderr)
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        kb = str(Path(folder) / "kb")
        build(BuildConfig(out=kb, catalogues=("miniworld://",)))
        for seed in SEEDS:
            config = SourceConfig(f"miniworld://?rows={ROWS}&seed={seed}")
            rows = _read(config)
            found: dict = {"seed": seed} | _text_only(rows, StepContext(kb, config))
            if real:
                made = _shape(rows["caption"].to_pylist(), tagger)
                found |= made | {"names_distance": _distance(made["names"], real["names"])}
            print(found, file=sys.stderr)
            rounds.append(found)
    figures = {name: [one[name] for one in rounds] for name in ("wrong", "reachable")}
    print(
        json.dumps(
            {
                "wrong": min(figures["wrong"]),
                "reachable": min(figures["reachable"]),
                "names_distance": statistics.median(one["names_distance"] for one in rounds) if real else None,
                "real": real,
                "rounds": rounds,
                "rows": ROWS,
                "cpus": os.cpu_count(),
                "spacy": spacy.__version__,
            }
        )
    )


if __name__ == "__main__":
    main()

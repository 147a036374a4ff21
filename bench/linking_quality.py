"""Linking gold spans: ours against "exact alias, highest PageRank" on the same catalogue; then without gold spans.

    .venv/bin/python bench/linking_quality.py            # needs ../shared/data; 3 minutes on one core

The knowledge base is built from all of `wikidata_catalog`. Mentions are the gold spans, their types whatever
`spacy_ner_small` says of an overlapping span (without gold spans there is nothing else to take them from). Accuracy is
over mentions whose gold entity is in the catalogue; a mention without an answer is wrong. `LinkConfig`'s weights were
chosen on the tuning halves (every second caption or document); the figures that count are those of the other halves.
"""

from __future__ import annotations

import collections
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from raylab.kb.build import BuildConfig, build
from raylab.kb.catalog import Catalog
from raylab.label.candidates import CandidatesConfig
from raylab.label.evidence import flat_candidates
from raylab.label.link import LinkConfig
from raylab.label.mentions import MentionsConfig
from raylab.label.step import Step, StepContext
from raylab.schema import MENTION, widen
from raylab.sources.base import SourceConfig

DATA = Path(__file__).parents[2] / "shared" / "data"
CATALOGUES = ("kgtk_arnold", "places_dr5hn", "us_congress", "oewn_wikidata", "imagenet1000_qid", "nsi_brands_operators")
BATCH = 512
BASELINES: dict[str, Callable[[Any], str]] = {
    "exact alias + PageRank": str,
    "exact alias, case folded + PageRank": str.casefold,
}
"""Names of the baselines and how they read a name."""


class Text(NamedTuple):
    """A caption or document with gold spans (start, end, QID)."""

    half: int
    """0: tuning, 1: reported."""
    text: str
    spans: list[tuple[int, int, str]]


def mel() -> list[Text]:
    """Wikidata-MEL dev; 372 mentions whose words do not follow one another in the caption have no span, left out."""
    rows = map(json.loads, (DATA / "mel_captions" / "wikidata_mel_dev.jsonl").read_text().splitlines())
    return [
        Text(
            at % 2,
            row["caption"],
            [(m["start"], m["end"], m["qid"]) for m in row["mentions"] if m["start"] is not None],
        )
        for at, row in enumerate(rows)
    ]


def documents(name: str) -> list[Text]:
    """AIDA-CoNLL dev or OKE-2015 train, in Elevant's format."""
    rows = map(json.loads, (DATA / "el_gold" / f"{name}.benchmark.jsonl").read_text().splitlines())
    return [
        Text(at % 2, row["text"], [(*label["span"], label["entity_id"]) for label in row["labels"]])
        for at, row in enumerate(rows)
    ]


def knowledge_base(folder: Path) -> Path:
    """Build the knowledge base of everything in `wikidata_catalog`."""
    files = [next((DATA / "wikidata_catalog").glob(f"{name}.jsonl*")) for name in CATALOGUES]
    edges = DATA / "wikidata_catalog" / "kgtk_p279.jsonl.gz"
    build(BuildConfig(str(folder / "kb"), tuple(map(str, files)), (str(edges),)))
    return folder / "kb"


def rows_of(texts: list[Text]) -> pa.Table:
    """Return the texts as rows in flight, gold spans as mentions without a type."""
    mentions = [
        [{"start": s, "end": e, "text": text.text[s:e], "label": None, "source": "ner"} for s, e, _ in text.spans]
        for text in texts
    ]
    keys = [str(at) for at in range(len(texts))]
    columns = {"row_id": keys, "shard": keys, "key": keys, "caption": [text.text for text in texts]}
    return widen(pa.table({**columns, "mentions": pa.array(mentions, pa.list_(MENTION))}))


def with_types(rows: pa.Table, recognise: Callable[[pa.Table], pa.Table]) -> pa.Table:
    """Give each gold span the recogniser's label of the span that overlaps it."""
    seen = recognise(rows)["mentions"].to_pylist()
    gold = rows["mentions"].to_pylist()
    for mentions, spans in zip(gold, seen):
        for mention in mentions:
            touching = (s["label"] for s in spans if s["start"] < mention["end"] and mention["start"] < s["end"])
            mention["label"] = next((label for label in touching if label), None)
    index = rows.schema.get_field_index("mentions")
    return rows.set_column(index, "mentions", pa.array(gold, pa.list_(MENTION)))


def ours(rows: pa.Table, context: StepContext, link: LinkConfig | None = None) -> list[dict[int, str]]:
    """Return each row's answers: mention number -> entity of the highest link score."""
    steps: list[Step] = [CandidatesConfig().build(context), (link or LinkConfig()).build(context)]
    answers: list[dict[int, str]] = []
    for start in range(0, rows.num_rows, BATCH):
        batch = rows.slice(start, BATCH)
        for step in steps:
            batch = step(batch)
        answers += _answers(batch)
    return answers


def _answers(batch: pa.Table) -> list[dict[int, str]]:
    flat = flat_candidates(batch)
    score, ids = flat.numbers("link_score"), flat.field("entity_id").to_pylist()
    mention = flat.field("mention").to_pylist()
    answers: list[dict[int, str]] = [{} for _ in range(batch.num_rows)]
    for at in np.argsort(score, kind="stable"):  # the best comes last and stays
        answers[flat.rows[at]][mention[at]] = ids[at]
    return answers


def by_pagerank(texts: list[Text], catalog: Catalog, fold: Callable[[Any], str]) -> list[dict[int, str]]:
    """Return the baseline's answers: of the entities with exactly this name, the one of the highest PageRank."""
    best: dict[str, tuple[float, str]] = {}
    columns = [catalog.entities[name].to_pylist() for name in ("id", "title", "aliases")]
    rows = zip(*columns, catalog.popularity.tolist())
    for qid, title, aliases, popularity in rows:
        for name in {fold(name) for name in (title, *(aliases or ()))}:
            best[name] = max(best.get(name, (-1.0, "")), (popularity, qid))
    return [
        {at: best[fold(text.text[s:e])][1] for at, (s, e, _) in enumerate(text.spans) if fold(text.text[s:e]) in best}
        for text in texts
    ]


def accuracy(texts: list[Text], answers: list[dict[int, str]], known: set[str], half: int) -> dict[str, float]:
    """Return accuracy over the mentions of one half: all of them, and those whose entity is in the catalogue."""
    count = collections.Counter[str]()
    for text, answer in zip(texts, answers):
        for at, (_, _, qid) in enumerate(text.spans if text.half == half else ()):
            right = answer.get(at) == qid
            count.update({"all": 1, "right": right, "known": qid in known, "right_known": right and qid in known})
    return {
        "mentions": count["all"],
        "in_catalogue": count["known"],
        "accuracy_all": round(count["right"] / count["all"], 4),
        "accuracy": round(count["right_known"] / count["known"], 4),
    }


def compare(
    name: str, texts: list[Text], context: StepContext, recognise: Callable[[pa.Table], pa.Table]
) -> Iterable[dict]:
    """Yield a round per method and half."""
    catalog = Catalog.open(context.kb)
    known = set(catalog.ids.to_pylist())
    rows = rows_of(texts)
    answers = {
        **{method: by_pagerank(texts, catalog, fold) for method, fold in BASELINES.items()},
        "prior alone": ours(rows, context, LinkConfig(words=0, keywords=0, coherence=0, clash=0)),
        "ours without types": ours(rows, context),
        "ours": ours(with_types(rows, recognise), context),
    }
    for method, given in answers.items():
        for half in (0, 1):
            yield {
                "set": name,
                "method": method,
                "half": ("tuning", "reported")[half],
                **accuracy(texts, given, known, half),
            }


def end_to_end(texts: list[Text], context: StepContext, finder: MentionsConfig, name: str) -> dict:
    """Link captions without gold spans, from mentions to the row's one entity.

    Returns:
        `found`: gold mentions (entity in the catalogue) that some overlapping mention links rightly; `row_recall`: of
        the captions with such a mention, those whose one entity is among their gold entities; `linked`: share of all
        captions with an entity. Gold names one or two mentions a caption and leaves others out: there is no precision.
    """
    known = set(Catalog.open(context.kb).ids.to_pylist())
    steps: list[Step] = [finder.build(context), CandidatesConfig().build(context), LinkConfig().build(context)]
    rows, count = rows_of(texts), collections.Counter[str]()
    for start in range(0, rows.num_rows, BATCH):
        batch = rows.slice(start, BATCH)
        for step in steps:
            batch = step(batch)
        columns = zip(texts[start : start + BATCH], *(batch[c].to_pylist() for c in ("mentions", "link_entity_id")))
        for (text, mentions, entity), answer in zip(columns, _answers(batch)):
            gold = [span for span in text.spans if span[2] in known]
            right = [any(_names(m, answer.get(i), span) for i, m in enumerate(mentions)) for span in gold]
            count.update({"gold": len(gold), "found": sum(right), "rows": bool(gold), "linked": entity is not None})
            count["row_right"] += entity in {qid for *_, qid in gold}
    return {
        "set": "MEL",
        "method": f"end to end, {name}",
        "found": round(count["found"] / count["gold"], 4),
        "row_recall": round(count["row_right"] / count["rows"], 4),
        "linked": round(count["linked"] / rows.num_rows, 4),
    }


def _names(mention: dict, entity: str | None, span: tuple[int, int, str]) -> bool:
    start, end, qid = span
    return entity == qid and mention["start"] < end and start < mention["end"]


def points_above(rounds: list[dict], baseline: str) -> dict[str, float]:
    """Return how many points of accuracy ours lies above a baseline, on the reported half of each set."""
    score = {(line["set"], line["method"]): line["accuracy"] for line in rounds if line["half"] == "reported"}
    return {name: round(100 * (score[name, "ours"] - score[name, baseline]), 1) for name in ("MEL", "AIDA", "OKE")}


def main() -> None:
    """Build, link, compare, print."""
    with tempfile.TemporaryDirectory() as folder:
        kb = knowledge_base(Path(folder))
        context = StepContext(str(kb), SourceConfig())
        recognise = MentionsConfig(spacy=str(DATA / "spacy_ner_small")).build(context)
        sets = {"MEL": mel(), "AIDA": documents("aida-conll-dev"), "OKE": documents("oke-2015-train")}
        rounds = [line for name, texts in sets.items() for line in compare(name, texts, context, recognise)]
        finders = {
            "aliases and NER": MentionsConfig(spacy=str(DATA / "spacy_ner_small")),
            "aliases": MentionsConfig(aliases_only=True),
        }
        whole = [end_to_end(sets["MEL"], context, finder, name) for name, finder in finders.items()]
    for line in rounds:
        print(
            f"{line['set']:5} {line['half']:9} {line['method']:36} {line['accuracy']:.4f} {line['accuracy_all']:.4f}",
            file=sys.stderr,
        )
    for line in whole:
        print(line, file=sys.stderr)
    gains = {method: points_above(rounds, method) for method in BASELINES}
    versions = {"python": platform.python_version(), "numpy": np.__version__, "pyarrow": pa.__version__}
    print(
        json.dumps(
            {
                "points_above_baseline": gains,
                "rounds": rounds,
                "end_to_end": whole,
                "cpus": os.cpu_count(),
                "versions": versions,
            }
        )
    )


if __name__ == "__main__":
    main()

"""A small finished run, made in code: what the report and the card are written from."""

import collections
import io
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from raylab.kb.build import BuildConfig, build
from raylab.label.annotated import annotation_figures
from raylab.label.audit import truth_report
from raylab.schema import LABEL, REJECT, SCHEMA_VERSION, Reason, row_id
from raylab.sources.base import Shard

ENTITIES = {
    "Q183": "Germany",
    "Q142": "France",
    "Q55": "Netherlands",
    "Q668": "India",
    "mw:signal-india": "India",
    "Q230": "Georgia",
    "Q1428": "Georgia",
}
HOSTILE = """</style><script>alert('x')</script><img src=x onerror="alert(1)"> "'><svg onload=alert(2)>"""
REFUSED = {
    Reason.EMPTY_CAPTION: "source",
    Reason.NO_CANDIDATES: "link",
    Reason.LOW_SCORE: "select",
    Reason.LOW_MARGIN: "select",
    Reason.IMAGE_CORRUPT: "select",
    Reason.STEP_ERROR: "select",
    Reason.RARE_ENTITY: "count",
}


class DrawnSource:
    """Draws a tricolour for each reference; every 50th image is broken, every 50th + 1 is missing. Lists no shards."""

    def shards(self) -> list[Shard]:
        return []

    def read(self, shard: Shard) -> Iterator[pa.Table]:
        return iter(())

    def image_bytes(self, refs: Sequence[dict]) -> list[bytes | Reason]:
        return [self._draw(ref["offset"]) for ref in refs]

    @staticmethod
    def _draw(number: int) -> bytes | Reason:
        if number % 50 == 0:
            return b"\xff\xd8\xff this is no JPEG"
        if number % 50 == 1:
            return Reason.MISSING_IMAGE
        chance = random.Random(number)
        image = Image.frombytes("RGB", (100, 67), chance.randbytes(100 * 67 * 3)).resize((300, 200))
        draw = ImageDraw.Draw(image)
        for stripe in range(3):
            colour = tuple(chance.randrange(256) for _ in range(3))
            draw.rectangle((60 + stripe * 60, 40, 120 + stripe * 60, 160), fill=colour)
        buffer = io.BytesIO()
        image.save(buffer, "JPEG")
        return buffer.getvalue()


@dataclass(frozen=True)
class Run:
    out: Path
    summary: dict[str, Any]
    config: dict[str, Any]
    labels: ds.Dataset
    rejects: ds.Dataset


def row(number: int, chance: random.Random, reason: Reason | None) -> dict[str, Any]:
    ids = chance.sample(sorted(ENTITIES), 3)
    name = ENTITIES[ids[0]]
    caption = "" if reason is Reason.EMPTY_CAPTION else f"The flag of {name} on a mug, 12 oz | shop item {number}"
    if number % 40 == 7:
        caption = f"{name} {HOSTILE}"
    start = max(0, caption.find(name))
    score = chance.betavariate(8, 1.5) if reason is None else chance.betavariate(2, 5)
    scored = reason in (None, Reason.LOW_SCORE, Reason.LOW_MARGIN, Reason.RARE_ENTITY)
    candidates = [
        {
            "entity_id": one,
            "mention": -1 if place == 2 else 0,
            "source": "neighbour" if place == 2 else "alias",
            "prior": 0.6 / (place + 1),
            "link_score": 0.7 / (place + 1),
            "image_cosine": 0.3 - place / 10 if scored else None,
            "image_score": score / (place + 1) if scored else None,
        }
        for place, one in enumerate(ids)
    ]
    return {
        "row_id": row_id("part-0", str(number)),
        "shard": "part-0",
        "key": f"{number:06d}",
        "url": "javascript:alert(3)" if number % 40 == 7 else f"https://shop.example/{number}",
        "licence": "CC0-1.0" if number % 3 else None,
        "caption": caption,
        "image": {"uri": "drawn://", "offset": number, "size": -1},
        "truth": [ids[0] if chance.random() < 0.9 else ids[1]],
        "mentions": [{"start": start, "end": start + len(name), "text": name, "label": None, "source": "alias"}],
        "candidates": candidates if reason not in (Reason.EMPTY_CAPTION, Reason.NO_CANDIDATES) else [],
        "link_entity_id": ids[0] if chance.random() < 0.7 else ids[1],
        "link_score": chance.random(),
        "models": [{"step": "select", "model": "clip@1"}],
        "entity_id": ids[0] if scored else None,
        "entity_name": name if scored else None,
        "score": score if scored else None,
        "margin": score * chance.random() if scored else None,
        "leak_cosine": None,
        "annotation": None,
        "reject_step": None if reason is None else REFUSED[reason],
        "reject_reason": reason,
        "reject_detail": None if reason is None else f"why {number}",
    }


ANNOTATION_REFUSED = {
    Reason.ANSWER_MALFORMED: "verify",
    Reason.ANSWER_REFUSED: "verify",
    Reason.NOT_IDENTIFIED: "verify",
    Reason.LOW_CONFIDENCE: "verify",
    Reason.ANSWER_TRUNCATED: "questions",
    Reason.ENGINE_CRASH: "questions",
}
RATIONALES = (
    "Three vertical stripes of equal width on a mug, the outer ones dark, the middle one pale.",
    "A white field with a red cross from edge to edge and a small red cross in each quarter.",
    f"A printed cup {HOSTILE}",
)


def annotate(one: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """Ask an imagined annotator: it is right more often than the selection, and surer where it is right."""
    rescued = one["reject_reason"] == Reason.LOW_SCORE and chance.random() < 0.5
    if not rescued and one["reject_reason"] not in (None, Reason.RARE_ENTITY):
        return one
    before = {"id": one["entity_id"], "name": one["entity_name"]}
    decision = "verified" if before["id"] in one["truth"] and chance.random() < 0.6 else "corrected"
    how, final = "candidate", dict(before)
    if decision == "corrected":
        how = chance.choice(["exact", "exact", "normalised", "close", "unresolved"])
        meant = one["truth"][0] if chance.random() < 0.8 else chance.choice(sorted(ENTITIES))
        final = {"id": meant, "name": ENTITIES[meant]}
        if how == "unresolved":
            final = {"id": None, "name": f"Flag of nowhere {HOSTILE}" if chance.random() < 0.2 else "Old kingdom"}
    right = final["id"] in one["truth"]
    confidence = chance.betavariate(9, 1.2) if right else chance.betavariate(3, 2.5)
    reason = chance.choice(sorted(ANNOTATION_REFUSED)) if chance.random() < 0.2 else None
    unread = reason in (Reason.ANSWER_MALFORMED, Reason.ANSWER_REFUSED, Reason.NOT_IDENTIFIED)
    asked = reason is None or ANNOTATION_REFUSED[reason] == "questions"
    answers = (("Which country is it?", final["name"], final["id"]), ("What is it on?", f"a mug {HOSTILE[:20]}", None))
    pairs = (*answers, ("What else is there?", "Germany", "Q183"))
    note = {
        "decision": None if unread else decision,
        "candidate_id": before["id"],
        "candidate_name": before["name"],
        "candidate_score": one["score"],
        "rescued": rescued,
        "title": None if unread else final["name"],
        "resolution": None if unread else how,
        "resolution_score": None if unread else 0.9,
        "confidence": None if unread else confidence,
        "description": None,
        "rationale": None if unread else chance.choice(RATIONALES),
        "questions": [dict(zip(("question", "answer", "answer_id"), pair)) for pair in pairs] if not reason else None,
        "prompts": ["verify/rew-1@0123456789ab"] + ["questions/rew-1@ba9876543210"] * asked,
        "attempts": 3 if unread else 2,
        "prompt_tokens": 700,
        "answer_tokens": 90,
    }
    kept = reason or (None if rescued else one["reject_reason"])
    step = ANNOTATION_REFUSED[reason] if reason else (REFUSED[kept] if kept else None)
    entity = before if unread else final
    models = [*one["models"], {"step": "verify", "model": "qwen-vl@7"}]
    changed = {"annotation": note, "entity_id": entity["id"], "entity_name": entity["name"], "models": models}
    return (
        one
        | changed
        | {"reject_step": step, "reject_reason": kept, "reject_detail": f"why: {HOSTILE}" if kept else None}
    )


def table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    return pa.table({field.name: pa.array([one[field.name] for one in rows], field.type) for field in schema}).cast(
        schema
    )


def make_run(  # noqa: PLR0917
    out: Path,
    rows: int = 400,
    seed: int = 3,
    truth: bool = True,
    annotated: bool = False,
    source: str = "drawn://flags",
) -> Run:
    """Write a finished run's folder, two row groups a part, without the knowledge base that its config names.

    With `annotated`, an annotator was asked about what the selection labelled, and about some that it rejected.
    """
    chance = random.Random(seed)
    reasons = [chance.choice(sorted(REFUSED)) if chance.random() < 0.4 else None for _ in range(rows)]
    made = [row(number, chance, reason) for number, reason in enumerate(reasons)]
    if annotated:
        made = [annotate(one, random.Random(number)) for number, one in enumerate(made)]
    if source.startswith("miniworld:"):
        made = [one | {"image": {**one["image"], "uri": "miniworld://?seed=7"}} for one in made]
    if not truth:
        made = [one | {"truth": None} for one in made]
    labelled = [one for one in made if one["reject_reason"] is None]
    rejected = [one for one in made if one["reject_reason"] is not None]
    for name, chosen, schema in (("labels", labelled, LABEL), ("rejects", rejected, REJECT)):
        (out / name).mkdir(parents=True)
        pq.write_table(table(chosen, schema), out / name / "00000.parquet", row_group_size=max(1, len(chosen) // 2))
    counts = collections.Counter((one["entity_id"], one["entity_name"]) for one in labelled).most_common()
    top = [[entity, name, images] for (entity, name), images in counts]
    counted = [dict(zip(COUNTED.names, (*one, True))) for one in top]
    pq.write_table(pa.Table.from_pylist(counted, COUNTED), out / "entity_counts.parquet")
    parts = [dataset(out / "labels", LABEL), dataset(out / "rejects", REJECT)]
    summary = summarise(made, top, str(out)) | (TRUTH if truth else {})
    if annotated:
        summary |= {"truth": truth_report(*parts)} if truth else {}
        figures = annotation_figures(*parts)
        summary |= {"recipe": "rew"} | ({"annotation": figures} if figures else {})
    config: dict[str, Any] = {"source": {"uri": source}, "kb": str(out.parent / "kb"), "note": HOSTILE}
    config |= {"select": {"min_score": 0.3, "min_margin": 0.1}}
    (out / "config.json").write_text(json.dumps(config))
    (out / "summary.json").write_text(json.dumps(summary))
    manifest = {name: [f"{name}/00000.parquet"] for name in ("labels", "rejects")}
    (out / "MANIFEST.json").write_text(json.dumps(manifest))
    return Run(out, summary, config, *parts)


COUNTED = pa.schema(
    [("entity_id", pa.string()), ("entity_name", pa.string()), ("images", pa.int64()), ("kept", pa.bool_())]
)
FLAGS = {"path": "catalogues/flags.jsonl", "lines": 9, "rows": 7, "bad": {"not JSON": 2}, "dropped": {}}
TRUTH = {
    "truth": {
        "link": {"precision": 0.612, "recall": 0.5, "coverage": 0.9},
        "select": {"precision": 0.957, "recall": 0.8, "coverage": 0.83},
    }
}


def make_kb(folder: Path) -> None:
    """Build the knowledge base that the config of a run in `folder` names."""
    catalogue = folder / "flags.jsonl"
    lines = [{"id": one, "title": name, "description": f"what {one} is"} for one, name in ENTITIES.items()]
    catalogue.write_text("\n".join(map(json.dumps, lines)))
    build(BuildConfig(out=str(folder / "kb"), catalogues=(str(catalogue),), context=False, workers=1))


def dataset(folder: Path, schema: pa.Schema) -> ds.Dataset:
    return ds.dataset(sorted(map(str, folder.glob("*.parquet"))), schema=schema, format="parquet")


def summarise(rows: list[dict[str, Any]], top: list[list], out: str) -> dict[str, Any]:
    remaining, steps = len(rows), []
    left = [(one["reject_step"], Reason(one["reject_reason"])) for one in rows if one["reject_reason"]]
    names = ["source", "mentions", "candidates", "link", "select", "count"]
    names[5:5] = ["verify", "questions"] if any(one["annotation"] for one in rows) else []
    for name in names:
        mine = collections.Counter(reason for step, reason in left if step == name)
        failed = sum(mine.pop(reason, 0) for reason in list(mine) if reason.is_failure)
        stay = remaining - mine.total() - failed
        speed = 1234.5 if name in ("mentions", "select") else 0.0
        rejected = {reason.value: number for reason, number in mine.items()}
        step: dict[str, Any] = {
            "name": name,
            "rows_in": remaining,
            "rows_out": stay,
            "rejected": rejected,
            "failed": failed,
        }
        steps.append(step | {"worker_seconds": 1.5, "rows_per_s": speed})
        remaining = stay
    why = collections.Counter(reason.value for _, reason in left)
    failed = sum(step["failed"] for step in steps)
    return {
        "rows_in": len(rows),
        "labelled": remaining,
        "rejected": len(rows) - remaining - failed,
        "failed": failed,
        "seconds": 83.2,
        "out": out,
        "source": "drawn://flags?<b>",
        "recipe": "miniworld",
        "steps": steps,
        "reasons": dict(why),
        "kb": {
            "fingerprint": "f00d" * 8,
            "dump_date": "2026-11-02",
            "entities": 612,
            "aliases": 2140,
            "sources": [FLAGS],
        },
        "models": {"mentions": "spacy:ner@abc", "select": "miniworld-clip@def"},
        "entities": {"labelled": len(top), "cut": 2, "top": top},
        "licences": {"CC0-1.0": remaining - 3, "unknown": 3},
        "versions": {"ray": "2.60.0", "pyarrow": "25.0.0"},
        "raylab": "0.1.0",
        "schema_version": SCHEMA_VERSION,
    }


def cut(rows: ds.Dataset, folder: Path, files: int) -> ds.Dataset:
    """Write the same rows in so many files."""
    folder.mkdir()
    table = rows.to_table()
    size = -(-table.num_rows // files)
    for number in range(files):
        pq.write_table(table.slice(number * size, size), folder / f"{number:05d}.parquet")
    return ds.dataset(folder)

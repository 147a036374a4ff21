"""A seed's data: pairs, three label stores made of them, and test pictures with questions from another seed."""

from __future__ import annotations

import io
import multiprocessing
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raylab.kb.catalog import Catalog
from raylab.schema import LABEL, REJECT, set_column
from raylab.sources.miniworld.make_clip import shrink
from raylab.sources.miniworld.questions import Question, questions
from raylab.sources.miniworld.samples import Sample, picture, sample

TEST_SEEDS = 1_000_000
"""Test pictures of seed s come from world s + this."""
LABEL_STORES = ("selected", "candidates", "corrected", "questions")
"""CLIP's selection (I2E); the best entity by text alone, as Entity-WebLI's are; those verified and corrected (REW);
OVEN's training questions about the same pictures, whose answers are true."""
QUESTIONS = 500
"""Training questions of each split: the paper's fine-tuning draws half and half (arXiv 2410.23676)."""


@dataclass(frozen=True)
class World:
    """Where a seed's data lies."""

    folder: Path
    seed: int

    @property
    def pairs(self) -> Path:
        """Parquet of key, caption, image."""
        return self.folder / "pairs.parquet"

    def store(self, name: str) -> Path:
        """A label store: one of `LABEL_STORES`."""
        return self.folder / name

    @property
    def test(self) -> Path:
        """Arrays of the test pictures and their questions."""
        return self.folder / "test.npz"


def build_kb(out: Path) -> None:
    """Build the mini-world's knowledge base."""
    line = [sys.executable, "jobs/build_kb.py", "--catalogues", "miniworld://", "--out", str(out)]
    subprocess.run(line, check=True, capture_output=True)


def make(folder: Path, kb: Path, seed: int, rows: int, test_rows: int) -> World:
    """Make a seed's data; what is there already stays."""
    world = select(folder, kb, seed, rows, test_rows)
    if not world.store("candidates").exists():
        take_candidates(world, kb)
    label(["rew_miniworld", "--source", world.store("candidates"), "--kb", kb, "--out", world.store("corrected")])
    if not world.store("questions").exists():
        take_questions(world)
    return world


def select(folder: Path, kb: Path, seed: int, rows: int, test_rows: int) -> World:
    """Paint a seed's pairs and test pictures, and label the pairs by CLIP's selection alone."""
    world = World(folder, seed)
    folder.mkdir(parents=True, exist_ok=True)
    if not world.pairs.exists():
        paint_pairs(world, rows)
    if not world.test.exists():
        paint_test(world, test_rows)
    label(["miniworld", "--source", world.pairs, "--kb", kb, "--out", world.store("selected")])
    return world


def label(arguments: list[object]) -> None:
    """Run jobs/label.py; rare entities stay, as there are few rows."""
    line = [sys.executable, "jobs/label.py", "--recipe", *map(str, arguments), "--store.min-entity-images", "1"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])


def paint_pairs(world: World, rows: int, keep: Callable[[Sample], bool] = lambda row: True) -> None:
    """Paint the first of a world's pairs that are kept, of the size that small networks take."""
    kept = islice((i for i in count() if keep(sample(world.seed, i))), rows)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pairs = pool.starmap(_pair, ((world.seed, i) for i in kept), chunksize=64)
    pq.write_table(pa.Table.from_pylist(pairs), world.pairs, row_group_size=500)


def _pair(seed: int, index: int) -> dict:
    one = sample(seed, index)
    buffer = io.BytesIO()
    shrink(picture(one)).save(buffer, "JPEG", quality=95)
    return {"key": f"{index:09d}", "caption": one.caption.text, "image": buffer.getvalue()}


def paint_test(world: World, rows: int) -> None:
    """Paint another world's pictures, and note what is asked about them."""
    seed = world.seed + TEST_SEEDS
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pixels = pool.starmap(_pixels, ((seed, i) for i in range(rows)), chunksize=64)
    samples = [sample(seed, i) for i in range(rows)]
    asked = [(row.index, one) for row in samples if row.split != "train" for one in questions(row)]
    single = [row.entity_ids[0] if len(row.entity_ids) == 1 else "" for row in samples]
    np.savez(
        world.test,
        image_NHWC=np.stack(pixels),
        entity_N=np.array(single),
        asked_Q=np.array([i for i, _ in asked]),
        question_Q=np.array([one.question for _, one in asked]),
        answer_Q=np.array([one.entity_id for _, one in asked]),
        split_Q=np.array([one.data_split for _, one in asked]),
    )


def _pixels(seed: int, index: int) -> np.ndarray:
    return np.asarray(shrink(picture(sample(seed, index))))


def take_candidates(world: World, kb: Path) -> None:
    """Copy the selection's store with each row's label put back to the best entity by its text alone."""
    source, out = world.store("selected"), world.store("candidates")
    part = out.with_name("candidates.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(source, part)
    catalog = Catalog.open(kb)
    for labels in sorted((part / "labels").iterdir()):
        rejects = part / "rejects" / labels.name
        left = pq.read_table(rejects)
        linked = pc.is_valid(left["link_entity_id"])
        rows = pa.concat_tables([pq.read_table(labels), left.filter(linked).select(LABEL.names).cast(LABEL)])
        pq.write_table(_by_text(rows, catalog).cast(LABEL), labels)
        pq.write_table(left.filter(pc.invert(linked)).cast(REJECT), rejects)
    part.rename(out)


def _by_text(rows: pa.Table, catalog: Catalog) -> pa.Table:
    found = catalog.rows(rows["link_entity_id"].combine_chunks())
    rows = set_column(rows, "entity_id", rows["link_entity_id"])
    rows = set_column(rows, "entity_name", catalog.take(found, ("title",))["title"].cast(pa.string()))
    return set_column(rows, "score", rows["link_score"])


def take_questions(world: World) -> None:
    """Copy the corrected store with OVEN's training questions about its pictures in place of its labels."""
    source, part = world.store("corrected"), world.folder / "questions.part"
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(source, part)
    rows = pa.concat_tables([pq.read_table(path) for path in sorted((source / "labels").iterdir())]).to_pylist()
    asked = [(row, one) for row in rows for one in questions(sample(world.seed, int(row["key"])))]
    draw = random.Random(world.seed)
    chosen = [
        _with_question(row, one)
        for split in ("entity_train", "query_train")
        for row, one in draw.sample([pair for pair in asked if pair[1].data_split == split], QUESTIONS)
    ]
    first, *others = sorted((part / "labels").iterdir())
    pq.write_table(pa.Table.from_pylist(chosen, LABEL), first)
    for path in others:
        pq.write_table(LABEL.empty_table(), path)
    part.rename(world.store("questions"))


def _with_question(row: dict[str, Any], one: Question) -> dict[str, Any]:
    """Return a label whose only question is OVEN's."""
    pair = {"question": one.question, "answer": one.entity_text, "answer_id": one.entity_id}
    annotation = row["annotation"] | {"questions": [pair]}
    return row | {"entity_id": one.entity_id, "entity_name": one.entity_text, "annotation": annotation}

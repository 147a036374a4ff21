"""A knowledge base of a dozen entities whose names collide as in life, and rows to label with it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from raylab.kb.build import BuildConfig, build
from raylab.label.step import StepContext
from raylab.schema import CANDIDATE, FLOW, MENTION
from raylab.sources.base import SourceConfig

PERSON, PLACE, WORK = ["Q5"], ["Q515", "Q486972"], ["Q11424", "Q386724"]

ENTITIES = [
    ("hamilton-city", "Hamilton", [], "capital city of Bermuda, an island in the Atlantic", PLACE, 12),
    ("hamilton-man", "Alexander Hamilton", [], "first Secretary of the Treasury and American statesman", PERSON, 20),
    ("hamilton-film", "Hamilton (film)", ["Hamilton"], "Swedish film about a spy", WORK, 1),
    ("jefferson", "Thomas Jefferson", ["Jefferson"], "American statesman and President", PERSON, 20),
    ("bermuda", "Bermuda", [], "island in the Atlantic ocean", PLACE, 20),
    ("simmons-cricket", "Phil Simmons", [], "West Indian cricket player", PERSON, 1),
    ("simmons-kiss", "Gene Simmons", ["Simmons"], "American bass guitarist of a rock band", PERSON, 50),
    ("william", "William III of the Netherlands", [], "King of the Netherlands", PERSON, 5),
    ("stock", "Jürgen Stock", [], "German police officer", PERSON, 1),
    ("stock-goods", "Stock exchange", [], "place where stock and shares of stock are sold", [], 1),
    ("candle", "candle", [], "wax that burns and is kept in stock", [], 3),
    ("apple-fruit", "apple", [], "fruit", [], 30),
    ("apple-firm", "Apple Inc.", ["Apple"], "technology company", ["Q4830453"], 30),
    ("eiffel", "Eiffel Tower", [], "tower in Paris", ["Q811979"], 10),
    ("paris", "Paris", [], "capital of France", PLACE, 90),
]


def build_kb(folder: Path, context: bool = True) -> StepContext:
    """Build the knowledge base and return what steps are built with."""
    keys = ("id", "title", "aliases", "description", "types", "popularity")
    source = folder / "small.jsonl"
    source.write_text("\n".join(json.dumps(dict(zip(keys, row))) for row in ENTITIES))
    build(BuildConfig(str(folder / "kb"), (str(source),), workers=1, context=context))
    return StepContext(str(folder / "kb"), SourceConfig())


def rows_of(captions: Sequence[str | None], **columns: Sequence) -> pa.Table:
    """Return rows in flight with these captions, and other columns of `FLOW`."""
    keys = [str(number) for number in range(len(captions))]
    given = {"row_id": keys, "shard": keys, "key": keys, "caption": captions} | columns
    return pa.table({f.name: pa.array(given.get(f.name, [None] * len(keys)), f.type) for f in FLOW}, schema=FLOW)


def mention(caption: str, text: str, label: str | None = None, source: str = "ner") -> dict:
    """Return the mention of `text`'s first place in `caption`."""
    start = caption.index(text)
    values = (start, start + len(text), text, label, source)
    return {field.name: value for field, value in zip(MENTION, values)}


def candidate(entity_id: str, mention: int, prior: float, source: str = "alias") -> dict:
    """Return a candidate as the candidates step leaves it."""
    given = {"entity_id": entity_id, "mention": mention, "source": source, "prior": prior}
    return {field.name: given.get(field.name) for field in CANDIDATE}

"""The mini-world's entities as a catalogue that a knowledge base is built from."""

from __future__ import annotations

import json
from pathlib import Path

from raylab.sources.miniworld.entities import ENTITIES


def kb_rows() -> list[dict]:
    """Return one row in `schema.ENTITY` for every entity, those that no picture shows among them."""
    return [
        {
            "id": entity.id,
            "title": entity.title,
            "aliases": list(entity.aliases),
            "description": entity.description,
            "summary": entity.summary,
            "types": list(entity.types),
            "popularity": entity.popularity,
        }
        for entity in ENTITIES
    ]


def write_kb_jsonl(path: Path | str) -> Path:
    """Write `kb_rows` to `path`, one JSON object a line in UTF-8, and return the path."""
    target = Path(path)
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in kb_rows())
    target.write_text("".join(lines), encoding="utf-8")
    return target

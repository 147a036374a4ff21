"""The mini-world's entities as a catalogue that a knowledge base is built from."""

from __future__ import annotations

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

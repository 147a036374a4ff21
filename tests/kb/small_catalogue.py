"""The rows of the small knowledge base that the tests of this room share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

ROWS: list[dict] = [
    {"id": "Q1", "title": "Paris", "aliases": ["City of Light"], "description": "capital of France", "popularity": 90},
    {"id": "Q2", "title": "Paris, Texas", "aliases": ["Paris"], "description": "city in Texas", "popularity": 10},
    {"id": "Q3", "title": "Barack Obama", "aliases": ["Obama"], "types": ["Q5"], "popularity": 50},
    {"id": "Q4", "title": "Phil Simmons", "types": ["Q5"], "popularity": 5},
    {"id": "Q5", "title": "human", "popularity": 1},
    {"id": "Q6", "title": "Reading", "description": "town in Berkshire"},
    {"id": "Q7", "title": "United States", "aliases": ["US", "U.S."]},
    {"id": "Q8", "title": "Coca-Cola"},
    {"id": "Q9", "title": "Coffee table"},
    {"id": "Q10", "title": "São Paulo", "aliases": ["サンパウロ", "聖保羅"]},
    {"id": "Q11", "title": "Maybe (song)", "aliases": ["Maybe"]},
    {"id": "Q12", "title": "The Who"},
    {"id": "Q13", "title": "New York City", "aliases": ["New York", "NYC"]},
    {"id": "Q14", "title": "C++"},
    {"id": "Q15", "title": "AT&T"},
    {"id": "Q17", "title": "Isle of Man", "aliases": ["IM", "1st"]},
    {"id": "Q16", "title": "J. K. Rowling", "types": ["Q5"]},
]


def write_rows(path: Path, rows: Sequence[dict]) -> str:
    """Write a catalogue and return its path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)

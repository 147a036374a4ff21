"""Requests for the engines' tests."""

from __future__ import annotations

import io
import json
from typing import Any

import pyarrow as pa
from PIL import Image

from raylab.annotate.records import REQUEST

SCHEMA = {
    "type": "object",
    "properties": {"decision": {"enum": ["verified", "corrected"]}, "title": {"type": "string", "maxLength": 8}},
    "required": ["decision", "title"],
    "additionalProperties": False,
}


def jpeg(shade: int = 0, size: tuple[int, int] = (56, 84)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (shade % 255, 30, 200)).save(buffer, "JPEG")
    return buffer.getvalue()


def request(row: int = 0, **other: Any) -> dict[str, Any]:
    return {
        "_segment": 0,
        "_row": row,
        "call": "verify",
        "attempt": 1,
        "system": "be brief",
        "before": "look at this",
        "image": jpeg(7 * row),
        "after": f"what is number {row}",
        "schema": json.dumps(SCHEMA),
        "max_tokens": 48,
        "temperature": 0.0,
        "seed": row,
    } | other


def table(requests: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(requests, schema=REQUEST)

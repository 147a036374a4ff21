"""What passes between the annotator's rows and its engine: requests one way, answers the other, as Arrow tables.

A request is complete: whoever answers it needs neither the row nor the knowledge base. Answers are kept as they came;
`answers` reads them, so that a resumed run decides from the same words as the first one.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

SEGMENT, ROW = "_segment", "_row"
"""Which row a request speaks for: its segment and its number in it."""

KEY = (SEGMENT, ROW, "call", "attempt")
"""The columns that tell requests apart."""


class Problem(enum.StrEnum):
    """Why an engine gave no answer to one request. Anything that is not the request's fault is an exception instead."""

    PROMPT_TOO_LONG = "prompt_too_long"
    IMAGE_REFUSED = "image_refused"
    REQUEST_REFUSED = "request_refused"
    ENGINE_CRASH = "engine_crash"
    """The engine died with this request alone in hand, more than once."""


REQUEST = pa.schema(
    [
        pa.field(SEGMENT, pa.int32(), nullable=False),
        pa.field(ROW, pa.int64(), nullable=False),
        pa.field("call", pa.string(), nullable=False),  # one of `prompts.CALLS`
        pa.field("attempt", pa.int32(), nullable=False),  # 1, 2, ... of this call for this row
        pa.field("system", pa.string(), nullable=False),
        pa.field("before", pa.string(), nullable=False),  # the user's words before the picture
        pa.field("image", pa.binary()),  # JPEG, already of the size that the model is to see; null: a text-only request
        pa.field("after", pa.string(), nullable=False),
        pa.field("schema", pa.string(), nullable=False),  # the answer's JSON schema
        pa.field("max_tokens", pa.int32(), nullable=False),
        pa.field("temperature", pa.float32(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
    ]
)

ANSWER = pa.schema(
    [
        pa.field(SEGMENT, pa.int32(), nullable=False),
        pa.field(ROW, pa.int64(), nullable=False),
        pa.field("call", pa.string(), nullable=False),
        pa.field("attempt", pa.int32(), nullable=False),
        pa.field("text", pa.string()),  # null where there is a problem
        pa.field("finish", pa.string()),  # "stop" | "length"
        pa.field("tokens", pa.list_(pa.string())),  # the text's tokens, where the engine tells them
        pa.field("logprobs", pa.list_(pa.float32())),  # natural logarithm of each one's probability
        pa.field("asked_at", pa.float64()),  # seconds since 1970, by the clock of the engine's host
        pa.field("waited_s", pa.float32()),  # seconds from then until the answer was there
        pa.field("prompt_tokens", pa.int64()),
        pa.field("answer_tokens", pa.int64()),
        pa.field("problem", pa.string()),  # a `Problem`
        pa.field("detail", pa.string()),  # the engine's own words, cut; no keys, no addresses with passwords
    ]
)


def key_of(row: Mapping[str, Any]) -> str:
    """Return a name for a request, or for its answer, that no other one has."""
    return "/".join(str(row[name]) for name in KEY)

"""What every engine makes of a request: a row of `records.ANSWER`, with an answer or with the problem that it had."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from raylab.annotate.records import ANSWER, KEY, Problem

DETAIL_CHARS = 500
"""An engine's own words are cut here."""

ASKED_AT = "asked_at"
"""A request that is under way carries when it was asked."""

_TOO_LONG = re.compile(
    r"maximum (?:context|model) length|context[ _]length|context window|max_model_len|prompt is too long", re.IGNORECASE
)
_IMAGE = re.compile(r"\bimages?\b|multi-?modal|\bpixel|aspect ratio|\bmm_", re.IGNORECASE)


def replied(
    request: Mapping[str, Any],
    text: str,
    *,
    finish: str,
    tokens: Sequence[str] | None,
    logprobs: Sequence[float] | None,
    prompt_tokens: int | None,
    answer_tokens: int | None,
) -> dict[str, Any]:
    """Return the answer to `request`."""
    return _blank(request) | {
        "text": _clean(text),
        "finish": finish,
        "tokens": None if tokens is None else [_clean(token) for token in tokens],
        "logprobs": None if logprobs is None else list(logprobs),
        "prompt_tokens": prompt_tokens,
        "answer_tokens": answer_tokens,
    }


def refused(request: Mapping[str, Any], problem: Problem, detail: str) -> dict[str, Any]:
    """Return what stands for an answer where there is none."""
    return _blank(request) | {"problem": problem.value, "detail": _clean(detail)[:DETAIL_CHARS]}


def problem_in(words: str) -> Problem:
    """Read an engine's words: what was wrong with the request?"""
    if _TOO_LONG.search(words):
        return Problem.PROMPT_TOO_LONG
    return Problem.IMAGE_REFUSED if _IMAGE.search(words) else Problem.REQUEST_REFUSED


def table(answers: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return answers as `records.ANSWER`."""
    return pa.Table.from_pylist([dict(answer) for answer in answers], schema=ANSWER)


def pack(answers: Sequence[Mapping[str, Any]]) -> str:
    """Return answers as one string: a column of these has the same type in each block, whatever is null in it."""
    return json.dumps(answers)


def unpack(packed: Sequence[str]) -> pa.Table:
    """Return packed answers as `records.ANSWER`."""
    return table([answer for one in packed for answer in json.loads(one)])


def _blank(request: Mapping[str, Any]) -> dict[str, Any]:
    asked_at = request.get(ASKED_AT)
    times = {ASKED_AT: asked_at, "waited_s": None if asked_at is None else max(0.0, time.time() - asked_at)}
    return dict.fromkeys(ANSWER.names) | {name: request[name] for name in KEY} | times


def _clean(text: str) -> str:
    """Drop what UTF-8 cannot hold: halves of surrogate pairs from an engine's detokenizer."""
    return text.encode("utf-8", "replace").decode("utf-8")
